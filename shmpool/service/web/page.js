// SPDX-License-Identifier: Apache-2.0
// The live page: draws the events of the daemon. Names are inserted as text, never as HTML.
"use strict";

const HISTORY = 120; // points of a queue's depth, and of a topic's rate
const STATES = [
  ["free", (b) => b.free], ["cached", (b) => b.cached], ["held", (b) => b.held],
  ["queued", (b) => b.queued], ["uncreated", (b) => b.capacity - b.created],
];
const cards = new Map(); // pool name -> {node, bars, flows, published}
const number = (n) => n.toLocaleString("en-US");

function make(tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

function card(name) {
  const node = document.getElementById("pool").content.firstElementChild.cloneNode(true);
  node.dataset.pool = name;
  node.querySelector("h2").textContent = name;
  const bars = new Map();
  for (const [state] of STATES) {
    const part = make("span", undefined, state);
    const label = make("li");
    label.append(make("i", undefined, state), make("b"));
    node.querySelector(".bar").append(part);
    node.querySelector(".legend").append(label);
    bars.set(state, [part, label.lastChild]);
  }
  document.getElementById("pools").prepend(node);
  const made = { node, bars, flows: new Map(), published: new Map() };
  cards.set(name, made);
  return made;
}

// Draws the next value of a queue or a topic. least is what fills the picture if no value is larger.
function drawFlow(shown, name, value, least, what, text) {
  let known = shown.flows.get(name);
  if (!known) {
    const node = document.getElementById("flow").content.firstElementChild.cloneNode(true);
    node.querySelector("figcaption").append(make("b", name), make("span"));
    shown.node.querySelector(".flows").append(node);
    known = { node, values: [] };
    shown.flows.set(name, known);
  }
  known.values.push(value);
  if (known.values.length > HISTORY) known.values.shift();
  const top = Math.max(...known.values, least, 1);
  const first = HISTORY - known.values.length;
  const points = known.values.map((one, i) => `${first + i},${(31 - (30 * one) / top).toFixed(2)}`);
  known.node.querySelector("polyline").setAttribute("points", points.join(" "));
  known.node.querySelector("path").setAttribute("d", `M${first},31 L${points.join(" L")} V31 Z`);
  known.node.querySelector("span").textContent = text;
  known.node.querySelector("svg").setAttribute("aria-label", `${what} of ${name}: ${text}`);
}

function drawQueue(shown, queue) {
  drawFlow(shown, queue.name, queue.depth, queue.capacity / 64, "depth",
    `${number(queue.depth)} of ${number(queue.capacity)}`);
}

function drawTopic(shown, topic, at) {
  const before = shown.published.get(topic.name);
  shown.published.set(topic.name, { at, published: topic.published });
  const seconds = before ? at - before.at : 0;
  const rate = seconds > 0 ? Math.round((topic.published - before.published) / seconds) : 0;
  drawFlow(shown, topic.name, rate, 0, "rate", `${number(rate)} published/s, ` +
    `keeps ${number(topic.kept)} of ${number(topic.depth)}`);
}

function stateOf(subscriber) {
  if (subscriber.dead) return "dead";
  return subscriber.closing ? "closing" : "alive";
}

function drawRows(table, rows) {
  table.querySelector("tbody").replaceChildren(...rows.map((cells) => {
    const row = make("tr");
    for (const cell of cells) row.append(make("td", cell));
    return row;
  }));
}

function drawPool(pool) {
  const shown = cards.get(pool.pool) || card(pool.pool);
  const b = pool.buffers;
  shown.node.querySelector(".facts").textContent =
    [[b.capacity, "buffer", "buffers"], [b.members, "member", "members"],
      [pool.recoveries.count, "recovery", "recoveries"]]
      .map(([n, one, many]) => `${number(n)} ${n === 1 ? one : many}`).join(", ");
  const words = [];
  for (const [state, count] of STATES) {
    const [part, label] = shown.bars.get(state);
    part.style.flexGrow = count(b);
    label.textContent = `${state} ${number(count(b))}`;
    words.push(label.textContent);
  }
  shown.node.querySelector(".bar").setAttribute("aria-label", words.join(", "));
  shown.node.querySelector(".alarms").replaceChildren(
    ...pool.alarms.map((alarm) => make("li", `${alarm.kind}: ${alarm.subject}: ${alarm.message}`)));
  for (const queue of pool.queues) drawQueue(shown, queue);
  for (const topic of pool.topics) drawTopic(shown, topic, pool.at);
  drawRows(shown.node.querySelector(".subscribers"), pool.topics.flatMap((topic) =>
    topic.subscribers.map((one) => [topic.name, one.number, one.pid, one.name, one.policy,
      number(one.lag), number(one.gaps), number(one.held), stateOf(one)])));
  drawRows(shown.node.querySelector(".members"), pool.members.map((member) => [member.number,
    member.pid, member.tid, number(member.held), number(member.cached), member.operation || ""]));
}

function drawPools(pools) {
  for (const pool of [...pools].reverse()) drawPool(pool);
  const there = new Set(pools.map((pool) => pool.pool));
  for (const [name, shown] of cards) {
    if (!there.has(name)) {
      shown.node.remove();
      cards.delete(name);
    }
  }
}

const seen = new Set();
function drawRecovery(event) {
  const key = `${event.pool} ${event.number} ${event.at}`;
  if (seen.has(key)) return; // a new connection sends them again
  seen.add(key);
  const line = make("li", undefined, "fresh");
  const at = make("time", new Date(event.at * 1000).toLocaleTimeString());
  line.append(at, `${event.pool}: ${event.members} dead member${event.members === 1 ? "" : "s"}, ` +
    (event.subscribers ? `${event.subscribers} subscriber${event.subscribers === 1 ? "" : "s"}, ` : "") +
    `${number(event.buffers)} buffers back in ${(event.seconds * 1000).toFixed(1)} ms` +
    (event.requeued ? `, ${number(event.requeued)} requeued` : "") +
    (event.dead_lettered ? `, ${number(event.dead_lettered)} dead letters` : ""));
  const list = document.getElementById("events");
  list.prepend(line);
  while (list.children.length > 50) list.lastChild.remove();
}

const state = document.getElementById("state");
const events = new EventSource("api/v1/events");
events.addEventListener("pools", (event) => {
  drawPools(JSON.parse(event.data));
  state.textContent = `live, ${new Date().toLocaleTimeString()}`;
  state.className = "";
});
events.addEventListener("recovery", (event) => drawRecovery(JSON.parse(event.data)));
events.onerror = () => {
  state.textContent = "the daemon does not answer; trying again";
  state.className = "lost";
};
