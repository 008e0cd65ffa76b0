// The dashboard: asks /v1/status once a second, listens to /v1/events, and draws what it hears. It keeps a minute of history
// by itself, changes nothing, and writes what comes from outside as text only.
"use strict";

const MINUTE = 60;
const EVENTS_MAX = 80;
/// Above this many backends a pool shows those in trouble, and the busiest; the rest on request.
const FEW = 24;
const SHOWN = 12;
const TROUBLE = ["down", "wrong-role", "ejected", "maintenance", "draining", "unknown", "up"];
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);

function make(tag, name, parent) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (parent) parent.append(made);
  return made;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function makeShape(state, parent) {
  const shape = document.createElementNS(SVG, "svg");
  shape.append(document.createElementNS(SVG, "use"));
  parent.append(shape);
  setShape(shape, state);
  return shape;
}

function setShape(shape, state) {
  if (shape.dataset.state === state) return;
  shape.dataset.state = state;
  shape.setAttribute("class", `shape ${state === "listener" ? "listener-mark" : state}`);
  shape.setAttribute("aria-hidden", "true");
  shape.firstChild.setAttribute("href", `#s-${state}`);
}

// Numbers as a person reads them.

function short(number) {
  if (number >= 1e6) return `${(number / 1e6).toFixed(number < 1e7 ? 1 : 0)} M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(number < 1e5 ? 1 : 0)} k`;
  if (number >= 100 || Number.isInteger(number)) return String(Math.round(number));
  return number.toFixed(number < 10 ? 1 : 0);
}

function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) { number /= 1000; unit += 1; }
  return `${number >= 100 || unit === 0 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

function time(ms) {
  if (ms === null) return "–";
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  return ms < 100 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

function age(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

// A minute of history, by what it is of.

const tracks = new Map();

/// What a counter grew by in a second, and remembers; null when there is no earlier sample.
function rate(key, total, now) {
  const track = tracks.get(key) ?? { values: [] };
  tracks.set(key, track);
  const before = track.total;
  const grown = before === undefined || total < before ? null : (total - before) / Math.max((now - track.at) / 1000, 0.05);
  [track.total, track.at, track.seen] = [total, now, now];
  if (grown !== null) keep(track, grown);
  return grown ?? 0;
}

function gauge(key, value, now) {
  const track = tracks.get(key) ?? { values: [] };
  tracks.set(key, track);
  track.seen = now;
  keep(track, value);
  return value;
}

function keep(track, value) {
  track.values.push(value);
  if (track.values.length > MINUTE) track.values.shift();
}

const minuteOf = (key) => tracks.get(key)?.values ?? [];

function forgetOld(now) {
  for (const [key, track] of tracks) if (now - track.seen > 5000) tracks.delete(key);
}

class Spark {
  constructor(parent, label) {
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("class", "spark");
    this.svg.setAttribute("viewBox", `0 0 ${MINUTE - 1} 20`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.label = label;
    this.path("base").setAttribute("d", `M0 19.5H${MINUTE - 1}`);
    this.area = this.path("area");
    this.curve = this.path("curve");
    parent.append(this.svg);
  }

  path(name) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    this.svg.append(path);
    return path;
  }

  draw(values, unit) {
    const most = Math.max(...values, 0);
    this.svg.setAttribute("aria-label", `${this.label}, the last minute: at most ${unit(most)}`);
    if (values.length < 2) return;
    const scale = most > 0 ? 18 / most : 0;
    const from = MINUTE - values.length;
    const points = values.map((value, at) => `${from + at} ${(19 - value * scale).toFixed(2)}`);
    this.curve.setAttribute("d", `M${points.join("L")}`);
    this.area.setAttribute("d", `M${from} 20L${points.join("L")}L${MINUTE - 1} 20Z`);
  }
}

/// Keeps one drawn thing for each item, in the items' order.
class List {
  constructor(parent, create) {
    [this.parent, this.create, this.kept] = [parent, create, new Map()];
  }

  update(items, keyOf, fill) {
    const present = new Set();
    let place = this.parent.firstChild;
    for (const item of items) {
      const key = keyOf(item);
      present.add(key);
      if (!this.kept.has(key)) this.kept.set(key, this.create(item));
      const kept = this.kept.get(key);
      if (place !== kept.node) this.parent.insertBefore(kept.node, place);
      place = kept.node.nextSibling;
      fill(kept, item);
    }
    for (const [key, kept] of this.kept) {
      if (!present.has(key)) { kept.node.remove(); this.kept.delete(key); }
    }
  }
}

// Totals

class Tile {
  constructor(what) {
    this.node = make("div", "tile", byId("totals"));
    write(make("div", "what", this.node), what);
    const figure = make("div", "figure", this.node);
    this.figure = make("span", "", figure);
    this.unit = make("span", "unit", figure);
    this.spark = new Spark(this.node, what);
  }

  show(figure, unit, key, say) {
    write(this.figure, figure);
    write(this.unit, unit);
    this.spark.draw(minuteOf(key), say);
  }
}

const tiles = ["Sessions", "New sessions", "From clients", "To clients"].map((what) => new Tile(what));
const sum = (items, pick) => items.reduce((all, item) => all + (pick(item) ?? 0), 0);

function showTotals(status, now) {
  const { listeners } = status;
  const [active, fresh, into, out] = tiles;
  gauge("sessions", status.sessions.active, now);
  active.show(short(status.sessions.active), ` of ${short(status.sessions.limit)}`, "sessions", short);
  const begun = rate("begun", sum(listeners, (one) => one.sessions_total), now);
  fresh.show(short(begun), " /s", "begun", (n) => `${short(n)} a second`);
  for (const [tile, key, pick] of [[into, "in", (one) => one.bytes_in], [out, "out", (one) => one.bytes_out]]) {
    const [figure, unit] = bytes(rate(key, sum(listeners, pick), now)).split(" ");
    tile.show(figure, ` ${unit}/s`, key, (n) => `${bytes(n)} a second`);
  }
}

function makeCells(parent, names) {
  return Object.fromEntries(names.map((name) => {
    const cell = make("div", "cell", parent);
    const value = make("b", "", cell);
    write(make("small", "", cell), name);
    return [name, value];
  }));
}

// Listeners

const listenerList = new List(byId("listeners"), () => {
  const node = make("div", "row listener");
  const who = make("div", "who", node);
  const [name, sub] = [make("div", "name", who), make("div", "sub", who)];
  const cells = makeCells(node, ["sessions", "new/s", "in", "out"]);
  return { node, name, sub, cells, spark: new Spark(node, "New sessions a second") };
});

function showListeners(listeners, now) {
  listenerList.update(listeners, (one) => one.name, (row, one) => {
    const key = `l ${one.name}`;
    write(row.name, one.name);
    const more = one.addresses.length > 2 ? ` and ${one.addresses.length - 2} more` : "";
    const refused = sum(Object.values(one.refused ?? {}), (n) => n);
    const turned = rate(`${key} refused`, refused, now);
    const said = `${one.addresses.slice(0, 2).join(", ")}${more} → ${one.pool}`;
    write(row.sub, turned > 0 ? `${said} · ${short(turned)} refused a second` : said);
    row.sub.classList.toggle("refused", turned > 0);
    write(row.cells.sessions, short(one.sessions));
    write(row.cells["new/s"], short(rate(`${key} begun`, one.sessions_total, now)));
    write(row.cells.in, `${bytes(rate(`${key} in`, one.bytes_in, now))}/s`);
    write(row.cells.out, `${bytes(rate(`${key} out`, one.bytes_out, now))}/s`);
    row.spark.draw(minuteOf(`${key} begun`), short);
  });
}

// Pools

/// One word for a backend: the operator's, if he has said something, else its health.
const stateOf = (backend) => (backend.admin === "ready" ? backend.health : backend.admin);

function whyOf(backend) {
  const { breaker, last_change: change, last_check: check } = backend;
  if (backend.unresolved) return backend.unresolved;
  if (backend.health === "ejected") {
    const half = breaker?.state === "half-open" ? "being tried again; " : "";
    const until = breaker?.open_until ? `, until ${clock(breaker.open_until)}` : "";
    return `${half}${breaker?.last_change?.reason ?? "ejected"}${until}`;
  }
  if (backend.health === "up" && backend.admin === "ready") {
    // A check that the prober itself was late for says nothing.
    const failed = check && !["ok", "void"].includes(check.result) ? `last ${check.reason}` : "";
    const fails = breaker ? breaker.failures_in_a_row.connects + breaker.failures_in_a_row.early_resets : 0;
    return failed || (fails > 0 ? `${fails} ${fails === 1 ? "failure" : "failures in a row"}` : "");
  }
  // What its checks say of one that is up is not why it gets nothing.
  if (backend.health === "up") return "by the operator";
  return change ? `${change.reason}, since ${clock(change.at)}` : "";
}

const clock = (stamp) => new Date(stamp).toLocaleTimeString([], { hour12: false });

function makePool() {
  const node = make("article", "card pool");
  const head = make("div", "row head", node);
  const who = make("div", "who", head);
  const [name, sub] = [make("h3", "", who), make("div", "sub", who)];
  const cells = makeCells(head, ["sessions", "new/s", "waiting", "connect"]);
  const spark = new Spark(head, "New sessions a second");
  const notice = make("p", "notice", node);
  notice.setAttribute("role", "alert");
  const [tally, map] = [make("p", "tally", node), make("div", "map", node)];
  const columns = make("div", "row backend columns", node);
  columns.setAttribute("aria-hidden", "true");
  for (const word of ["state", "backend", "sessions", "new/s", "out", "connect", "last minute", "why"]) write(make("span", "", columns), word);
  const list = make("ul", "backends", node);
  const more = make("p", "more", node);
  const button = make("button", "", more);
  const pool = { node, name, sub, cells, spark, notice, more, button, all: false };
  pool.backends = new List(list, makeBackend);
  pool.glyphs = new List(map, (backend) => makeGlyph(pool, backend));
  pool.tally = new List(tally, (state) => {
    const item = { node: make("span") };
    makeShape(state[0], item.node);
    item.text = item.node.appendChild(document.createTextNode(""));
    return item;
  });
  button.addEventListener("click", () => { pool.all = !pool.all; draw(); });
  return pool;
}

function makeGlyph(pool, backend) {
  const node = make("button", "glyph");
  node.addEventListener("click", () => { pool.all = true; found = `${pool.key}/${backend.name}`; draw(true); });
  return { node, shape: makeShape("unknown", node) };
}

function makeBackend() {
  const node = make("li", "row backend");
  const state = make("div", "state", node);
  const shape = makeShape("unknown", state);
  const word = make("span", "", state);
  const who = make("div", "who", node);
  const [name, sub] = [make("div", "name", who), make("div", "sub", who)];
  const cells = makeCells(node, ["sessions", "new/s", "out", "connect"]);
  const bar = make("i", "", make("span", "load", cells.sessions.parentNode));
  const spark = new Spark(node, "Sessions");
  return { node, shape, word, name, sub, cells, bar, spark, why: make("div", "why", node) };
}

/// What is drawn of a backend, computed for each sample whether it is shown or not.
function measure(pool, backend, now) {
  const key = `b ${pool.name}/${backend.name}`;
  const fresh = rate(`${key} begun`, backend.sessions_total, now);
  const connects = rate(`${key} connects`, backend.connects ?? 0, now);
  const spent = rate(`${key} spent`, backend.connect_ms ?? 0, now);
  gauge(`${key} sessions`, backend.sessions, now);
  const track = tracks.get(`${key} connects`);
  if (connects > 0) track.latency = spent / connects;
  backend.shown = {
    key, fresh, latency: track.latency ?? null, state: stateOf(backend),
    out: rate(`${key} out`, backend.bytes_out, now), why: whyOf(backend),
  };
}

function fillBackend(row, backend, most) {
  const { key, fresh, latency, state, out, why } = backend.shown;
  setShape(row.shape, state);
  row.shape.parentNode.className = `state ${state}`;
  write(row.word, state);
  row.node.classList.toggle("trouble", ["down", "ejected", "wrong-role"].includes(state));
  row.node.classList.toggle("is-down", state === "down");
  write(row.name, backend.name);
  const weight = backend.weight === 100 ? "" : ` · weight ${backend.weight}`;
  const tier = backend.tier > 0 ? ` · tier ${backend.tier}` : "";
  const own = backend.address === backend.name ? "" : backend.address;
  write(row.sub, `${own}${weight}${tier}`.replace(/^ · /, ""));
  const limit = backend.max_connections;
  write(row.cells.sessions, limit > 0 ? `${short(backend.sessions)} / ${short(limit)}` : short(backend.sessions));
  row.bar.style.width = `${Math.min(100, (100 * backend.sessions) / Math.max(limit || most, 1))}%`;
  write(row.cells["new/s"], short(fresh));
  write(row.cells.out, `${bytes(out)}/s`);
  write(row.cells.connect, time(latency));
  write(row.why, why);
  row.why.title = why;
  row.spark.draw(minuteOf(`${key} sessions`), short);
}

const orders = {
  file: () => 0,
  trouble: (a, b) => TROUBLE.indexOf(a.shown.state) - TROUBLE.indexOf(b.shown.state),
  sessions: (a, b) => b.sessions - a.sessions,
  latency: (a, b) => (b.shown.latency ?? -1) - (a.shown.latency ?? -1),
};

const poolList = new List(byId("pools"), makePool);
let found = null;

function showPools(pools) {
  const wanted = byId("filter").value.trim().toLowerCase();
  const order = orders[byId("order").value];
  poolList.update(pools, (pool) => pool.name, (card, pool) => {
    card.key = pool.name;
    const { backends } = pool;
    showHead(card, pool);
    const most = Math.max(...backends.map((one) => one.sessions), 1);
    const fits = (one) => `${one.name} ${one.address} ${one.shown.state}`.toLowerCase().includes(wanted);
    const listed = backends.filter(fits).sort(order);
    const many = listed.length > FEW && !card.all;
    const calm = new Set(many ? [...listed].filter((one) => one.shown.state === "up").sort(orders.sessions).slice(SHOWN) : []);
    const rows = many ? listed.filter((one) => !calm.has(one)) : listed;
    card.backends.update(rows, (one) => one.name, (row, one) => {
      fillBackend(row, one, most);
      row.node.classList.toggle("found", found === `${pool.name}/${one.name}`);
    });
    card.more.hidden = listed.length <= FEW && rows.length > 0;
    card.button.hidden = listed.length <= FEW;
    write(card.button, card.all ? "Show fewer" : `Show all ${listed.length}: ${calm.size} more are up`);
  });
}

function showHead(card, pool) {
  const { backends } = pool;
  const key = `p ${pool.name}`;
  write(card.name, pool.name);
  const tiers = pool.serving_tiers.length && backends.some((one) => one.tier > 0) ? ` · tier ${pool.serving_tiers.join(", ")} serves` : "";
  write(card.sub, `${pool.algorithm}${tiers}`);
  write(card.cells.sessions, short(sum(backends, (one) => one.sessions)));
  write(card.cells["new/s"], short(pool.fresh));
  write(card.cells.waiting, short(pool.waiting));
  const known = backends.filter((one) => one.shown.latency !== null && one.shown.fresh > 0);
  const weight = sum(known, (one) => one.shown.fresh);
  write(card.cells.connect, time(weight > 0 ? sum(known, (one) => one.shown.latency * one.shown.fresh) / weight : null));
  card.spark.draw(minuteOf(`${key} begun`), short);
  write(card.notice, noticeOf(pool));
  const counts = TROUBLE.map((state) => [state, backends.filter((one) => one.shown.state === state).length]);
  card.tally.update(counts.filter(([, count]) => count > 0).reverse(), ([state]) => state, (item, [state, count]) => {
    const text = ` ${count} ${state}`;
    if (item.text.data !== text) item.text.data = text;
  });
  card.glyphs.update(backends.length > FEW ? backends : [], (one) => one.name, (glyph, one) => {
    setShape(glyph.shape, one.shown.state);
    const why = one.shown.why ? `: ${one.shown.why}` : "";
    const label = `${one.name}, ${one.shown.state}${why}`;
    if (glyph.node.title !== label) { glyph.node.title = label; glyph.node.setAttribute("aria-label", label); }
  });
}

function noticeOf(pool) {
  if (pool.role_conflict) return `${pool.role_conflict.backends.join(" and ")} both say that they are primary: neither gets new sessions`;
  if (pool.ignoring_health) return "Too few backends are healthy: health is ignored (fail_open)";
  if (!pool.backends.some((one) => one.eligible)) return pool.waiting > 0 ? `No backend is eligible, ${pool.waiting} clients wait` : "No backend is eligible";
  return "";
}

// Events

function tell(kind, data) {
  const who = data.pool ? `${data.pool}/${data.backend}` : data.listener;
  if (kind === "reload") {
    const said = data.changes.join(", ") || "nothing changed";
    return [data.result === "taken" ? "reload" : "down", `Reload ${data.result}`, data.error ?? said];
  }
  if (kind === "listener") return ["listener", `${who} ${data.state}`, data.addresses.slice(0, 3).join(", ")];
  if (kind === "breaker") {
    const open = data.open_ms >= 1000 ? age(data.open_ms / 1000) : `${data.open_ms} ms`;
    const words = { open: `ejected for ${open}`, "half-open": "may be tried", closed: `is back, ${data.health}` };
    return [data.to === "closed" ? data.health : "ejected", `${who} ${words[data.to]}`, data.reason];
  }
  if (data.what === "admin") return [data.to === "ready" ? "up" : data.to, `${who} is ${data.to}`, data.reason];
  return [data.to, `${who} is ${data.to}`, data.reason];
}

function addEvent(kind, data) {
  const [state, text, because] = tell(kind, data);
  const item = make("li", document.hidden ? "" : "new");
  makeShape(byId(`s-${state}`) ? state : "unknown", item);
  const moment = make("time", "", item);
  moment.dateTime = data.at;
  write(moment, clock(data.at));
  make("span", "", item).textContent = text;
  if (because) make("span", "because", item).textContent = because;
  const list = byId("events");
  list.prepend(item);
  while (list.childElementCount > EVENTS_MAX) list.lastChild.remove();
}

function listen() {
  const source = new EventSource("/v1/events?after=0");
  for (const kind of ["backend", "breaker", "reload", "listener"]) {
    source.addEventListener(kind, (event) => addEvent(kind, JSON.parse(event.data)));
  }
  source.addEventListener("error", () => {
    // Turned away, not only cut: the browser does not come again by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { byId("events").replaceChildren(); listen(); }, 5000);
  });
}

// The beat

let status = null;

function draw(scroll) {
  if (!status) return;
  showPools(status.pools);
  if (scroll) document.querySelector(".backend.found")?.scrollIntoView({ block: "center" });
}

function show(now) {
  for (const pool of status.pools) {
    pool.fresh = rate(`p ${pool.name} begun`, sum(pool.backends, (one) => one.sessions_total), now);
    for (const backend of pool.backends) measure(pool, backend, now);
  }
  showTotals(status, now);
  showListeners(status.listeners, now);
  draw();
  forgetOld(now);
  const busy = status.workers.map((worker) => `${Math.round(100 * worker.busy_ratio)} %`).join(", ");
  const workers = status.workers.length === 1 ? "1 worker" : `${status.workers.length} workers`;
  write(byId("about"), `${status.version} · ${status.phase} for ${age(status.uptime_seconds)} · ${workers}, busy ${busy}`);
}

async function beat() {
  const live = byId("live");
  try {
    const answer = await fetch("/v1/status", { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    status = await answer.json();
    show(performance.now());
    live.className = "";
    write(live, "live");
  } catch (error) {
    live.className = "lost";
    write(live, "no answer, asking again");
    console.warn("ringway:", error);
  }
  setTimeout(beat, document.hidden ? 5000 : 1000);
}

byId("filter").addEventListener("input", () => draw());
byId("order").addEventListener("change", () => draw());
document.addEventListener("keydown", (event) => {
  const writing = ["INPUT", "SELECT"].includes(document.activeElement?.tagName);
  if (event.key === "/" && !writing) { event.preventDefault(); byId("filter").focus(); }
  if (event.key === "Escape") { byId("filter").value = ""; document.activeElement?.blur(); found = null; draw(); }
});

listen();
beat();
