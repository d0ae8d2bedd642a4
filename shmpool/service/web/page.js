// SPDX-License-Identifier: Apache-2.0
// The live page: draws the events of the daemon. Names are inserted as text, never as HTML.
"use strict";

const HISTORY = 120; // points of a queue's depth
const STATES = [
  ["free", (b) => b.free], ["cached", (b) => b.cached], ["held", (b) => b.held],
  ["queued", (b) => b.queued], ["uncreated", (b) => b.capacity - b.created],
];
const cards = new Map(); // pool name -> {node, bars, queues}
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
  const made = { node, bars, queues: new Map() };
  cards.set(name, made);
  return made;
}

function drawQueue(shown, queue) {
  let known = shown.queues.get(queue.name);
  if (!known) {
    const node = document.getElementById("queue").content.firstElementChild.cloneNode(true);
    node.querySelector("figcaption").append(make("b", queue.name), make("span"));
    shown.node.querySelector(".queues").append(node);
    known = { node, depths: [] };
    shown.queues.set(queue.name, known);
  }
  known.depths.push(queue.depth);
  if (known.depths.length > HISTORY) known.depths.shift();
  const top = Math.max(...known.depths, queue.capacity / 64, 1);
  const first = HISTORY - known.depths.length;
  const points = known.depths.map((depth, i) => `${first + i},${(31 - (30 * depth) / top).toFixed(2)}`);
  known.node.querySelector("polyline").setAttribute("points", points.join(" "));
  known.node.querySelector("path").setAttribute("d", `M${first},31 L${points.join(" L")} V31 Z`);
  const text = `${number(queue.depth)} of ${number(queue.capacity)}`;
  known.node.querySelector("span").textContent = text;
  known.node.querySelector("svg").setAttribute("aria-label", `depth of ${queue.name}: ${text}`);
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
  shown.node.querySelector("tbody").replaceChildren(...pool.members.map((member) => {
    const row = make("tr");
    for (const cell of [member.number, member.pid, member.tid, number(member.held),
      number(member.cached), member.operation || ""]) row.append(make("td", cell));
    return row;
  }));
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
