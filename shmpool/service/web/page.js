// SPDX-License-Identifier: Apache-2.0
// The live page: draws the events of the daemon. Names are inserted as text, never as HTML.
//
// Figures of every pool are kept, but only pools that can be seen are drawn: a hundred pools cost
// what a screenful costs. "now" shows values that this page has seen, "last hour" what the daemon
// has kept (history.py).
"use strict";

const POINTS = 120; // values of a queue's depth, and of a topic's rate, that the page keeps
const MEMBERS_OPEN = 20; // a pool with more members shows them when it is asked to
const STATES = [
  ["free", (b) => b.free], ["cached", (b) => b.cached], ["held", (b) => b.held],
  ["queued", (b) => b.queued], ["uncreated", (b) => b.capacity - b.created],
];
const cards = new Map(); // pool name -> what card() returns
const newest = new Map(); // pool name -> its newest recovery: a new connection sends old ones again
const byId = (id) => document.getElementById(id);
const number = (n) => n.toLocaleString("en-US");
const count = (n, one, many) => `${number(n)} ${n === 1 ? one : many}`;
const hour = () => document.querySelector("input[name=range]:checked").value === "hour";

function make(tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const onScreen = new IntersectionObserver((changes) => {
  for (const change of changes) {
    const shown = cards.get(change.target.dataset.pool);
    if (!shown) continue;
    shown.visible = change.isIntersecting;
    if (shown.visible) draw(shown);
  }
}, { rootMargin: "50% 0px" });

function card(name) {
  const node = byId("pool").content.firstElementChild.cloneNode(true);
  node.dataset.pool = name;
  node.setAttribute("aria-label", `pool ${name}`);
  node.querySelector("h2").textContent = name;
  node.querySelector(".subscribers").setAttribute("aria-label", `subscribers of topics of ${name}`);
  node.querySelector(".links").setAttribute("aria-label", `links of ${name}`);
  node.querySelector(".members").setAttribute("aria-label", `members of ${name}`);
  const bars = new Map();
  for (const [state] of STATES) {
    const part = make("span", undefined, state);
    const label = make("li");
    label.append(make("i", undefined, state), make("b"));
    node.querySelector(".bar").append(part);
    node.querySelector(".legend").append(label);
    bars.set(state, [part, label.lastChild]);
  }
  const made = { name, node, bars, flows: new Map(), visible: false, pool: null, asked: 0 };
  node.querySelector("details").addEventListener("toggle", () => made.visible && draw(made));
  cards.set(name, made);
  place(made);
  filter(made);
  onScreen.observe(node);
  return made;
}

// Pools stand in the order of their names.
function place(shown) {
  const nodes = [...byId("pools").querySelectorAll(".pool")];
  const next = nodes.find((node) => node.dataset.pool > shown.name);
  byId("pools").insertBefore(shown.node, next || null);
}

function filter(shown) {
  const wanted = byId("filter").value.trim().toLowerCase();
  shown.node.hidden = !shown.name.toLowerCase().includes(wanted);
}

// What a queue or a topic shows: the values that were seen, and those of the last hour.
function flow(shown, name) {
  let known = shown.flows.get(name);
  if (!known) {
    const node = byId("flow").content.firstElementChild.cloneNode(true);
    node.querySelector("figcaption").append(make("b", name), make("span"));
    shown.node.querySelector(".flows").append(node);
    known = { node, values: [], hour: [], published: null };
    shown.flows.set(name, known);
  }
  return known;
}

function keep(known, value, least, what, text) {
  known.values.push(value);
  if (known.values.length > POINTS) known.values.shift();
  Object.assign(known, { least, what, text });
}

// Takes a pool's figures. Draws nothing but what screen readers announce.
function take(pool) {
  const shown = cards.get(pool.pool) || card(pool.pool);
  const first = shown.pool === null;
  shown.pool = pool;
  for (const queue of pool.queues) {
    keep(flow(shown, queue.name), queue.depth, queue.capacity / 64, "depth",
      `${number(queue.depth)} of ${number(queue.capacity)}`);
  }
  for (const topic of pool.topics) {
    const known = flow(shown, topic.name);
    const seconds = known.published ? pool.at - known.published.at : 0;
    const rate = seconds > 0 ? Math.round((topic.published - known.published.n) / seconds) : 0;
    known.published = { at: pool.at, n: topic.published };
    keep(known, rate, 0, "rate", `${number(rate)} published/s, ` +
      `keeps ${number(topic.kept)} of ${number(topic.depth)}`);
  }
  if (first) shown.node.querySelector("details").open = pool.members.length <= MEMBERS_OPEN;
  const alarms = pool.alarms.map((one) => `${one.kind}: ${one.subject}: ${one.message}`);
  const list = shown.node.querySelector(".alarms");
  if (alarms.join("\n") !== [...list.children].map((one) => one.textContent).join("\n")) {
    list.replaceChildren(...alarms.map((text) => make("li", text)));
  }
  if (shown.visible) draw(shown);
}

function drawFlow(known, name) {
  const values = hour() ? known.hour : known.values;
  const most = hour() ? Math.max(values.length, 2) : POINTS;
  const top = Math.max(...values, known.least, 1);
  const first = most - values.length;
  const x = (i) => (120 * (first + i) / (most - 1)).toFixed(2);
  const points = values.map((one, i) => [x(i), one === null ? null : (31 - (30 * one) / top).toFixed(2)])
    .filter(([, y]) => y !== null).map((point) => point.join(","));
  const line = known.node.querySelector("polyline");
  line.setAttribute("points", points.join(" "));
  const ends = points.length ? [points[0], points[points.length - 1]].map((p) => p.split(",")[0]) : [];
  known.node.querySelector("path").setAttribute("d",
    points.length ? `M${ends[0]},31 L${points.join(" L")} L${ends[1]},31 Z` : "");
  write(known.node.querySelector("span"), known.text);
  const when = hour() ? `, at most ${number(Math.round(Math.max(...values, 0)))} in the last hour` : "";
  known.node.querySelector("svg").setAttribute("aria-label",
    `${known.what} of ${name}: ${known.text}${when}`);
}

function stateOf(subscriber) {
  if (subscriber.dead) return "dead";
  return subscriber.closing ? "closing" : "alive";
}

// Rows that are there are written again where they differ.
function drawRows(region, rows) {
  const body = region.querySelector("tbody");
  region.hidden = rows.length === 0;
  while (body.rows.length > rows.length) body.lastChild.remove();
  rows.forEach((cells, i) => {
    const row = body.rows[i] || body.insertRow();
    cells.forEach((cell, j) => write(row.cells[j] || row.insertCell(), String(cell)));
  });
}

function draw(shown) {
  const pool = shown.pool;
  if (pool === null) return;
  const b = pool.buffers;
  write(shown.node.querySelector(".facts"), [count(b.capacity, "buffer", "buffers"),
    count(b.members, "member", "members"),
    count(pool.recoveries.count, "recovery", "recoveries")].join(", "));
  const words = [];
  for (const [state, of] of STATES) {
    const [part, label] = shown.bars.get(state);
    part.style.flexGrow = of(b);
    write(label, `${state} ${number(of(b))}`);
    words.push(label.textContent);
  }
  shown.node.querySelector(".bar").setAttribute("aria-label", words.join(", "));
  const there = new Set([...pool.queues, ...pool.topics].map((one) => one.name));
  for (const [name, known] of shown.flows) {
    if (there.has(name)) {
      drawFlow(known, name);
    } else {
      known.node.remove();
      shown.flows.delete(name);
    }
  }
  drawRows(shown.node.querySelector(".subscribers"), pool.topics.flatMap((topic) =>
    topic.subscribers.map((one) => [topic.name, one.number, one.pid, one.name, one.policy,
      number(one.lag), number(one.gaps), number(one.held), stateOf(one)])));
  drawRows(shown.node.querySelector(".links"), pool.links.map((link) => [link.name, link.target,
    link.state, number(link.packets), number(link.rate),
    `${number(link.unacknowledged)} of ${number(link.window)}`,
    number(link.lag), number(link.reconnects), number(link.doubled), number(link.redelivered), link.why]));
  const details = shown.node.querySelector("details");
  details.hidden = pool.members.length === 0;
  const more = b.members > pool.members.length ? `, of ${number(b.members)} those with most buffers` : "";
  write(details.querySelector("summary"), count(pool.members.length, "member", "members") + more);
  if (details.open) {
    drawRows(shown.node.querySelector(".members"), pool.members.map((member) => [member.number,
      member.pid, member.tid, number(member.held), number(member.cached), member.operation || ""]));
  }
  if (hour()) ask(shown);
}

// The values of a queue or topic, whose name may be that of what every object has.
function hourOf(past, name) {
  const of = [past.queues, past.topics].find((one) => Object.hasOwn(one, name));
  return of ? of[name] : [];
}

// Asks the daemon for a pool's last hour, once in as many seconds as one of its values covers.
async function ask(shown) {
  if (Date.now() < shown.asked) return;
  shown.asked = Date.now() + 10000;
  const answer = await fetch(`api/v1/pools/${encodeURIComponent(shown.name)}/history`);
  if (!answer.ok) return;
  const past = await answer.json();
  shown.asked = Date.now() + past.step * 1000;
  for (const [name, known] of shown.flows) known.hour = hourOf(past, name);
  if (hour()) for (const [name, known] of shown.flows) drawFlow(known, name);
}

function drawAll() {
  for (const shown of cards.values()) if (shown.visible) draw(shown);
}

function takeAll(pools) {
  for (const pool of pools) take(pool);
  const there = new Set(pools.map((pool) => pool.pool));
  for (const [name, shown] of cards) {
    if (!there.has(name)) {
      onScreen.unobserve(shown.node);
      shown.node.remove();
      cards.delete(name);
    }
  }
  for (const name of newest.keys()) if (!there.has(name)) newest.delete(name);
  const sum = (of) => pools.reduce((n, pool) => n + of(pool), 0);
  write(byId("summary"), [count(pools.length, "pool", "pools"),
    count(sum((pool) => pool.buffers.members), "member", "members"),
    count(sum((pool) => pool.alarms.length), "alarm", "alarms")].join(", "));
}

function drawRecovery(event) {
  const last = newest.get(event.pool);
  if (last && event.number <= last.number && event.at <= last.at) return; // sent again
  newest.set(event.pool, event);
  const line = make("li", undefined, "fresh");
  const at = make("time", new Date(event.at * 1000).toLocaleTimeString());
  line.append(at, `${event.pool}: ${count(event.members, "dead member", "dead members")}, ` +
    (event.subscribers ? `${count(event.subscribers, "subscriber", "subscribers")}, ` : "") +
    `${number(event.buffers)} buffers back in ${(event.seconds * 1000).toFixed(1)} ms` +
    (event.requeued ? `, ${number(event.requeued)} requeued` : "") +
    (event.dead_lettered ? `, ${number(event.dead_lettered)} dead letters` : ""));
  const list = byId("events");
  list.prepend(line);
  while (list.children.length > 50) list.lastChild.remove();
}

byId("filter").addEventListener("input", () => cards.forEach(filter));
byId("choices").addEventListener("submit", (event) => event.preventDefault());
for (const choice of document.querySelectorAll("input[name=range]")) choice.addEventListener("change", drawAll);

const events = new EventSource("api/v1/events");
events.addEventListener("pools", (event) => {
  takeAll(JSON.parse(event.data));
  write(byId("state"), "live");
  byId("state").className = "";
  byId("clock").textContent = new Date().toLocaleTimeString();
});
events.addEventListener("recovery", (event) => drawRecovery(JSON.parse(event.data)));
events.onerror = () => {
  write(byId("state"), "the daemon does not answer; trying again");
  byId("state").className = "lost";
};
