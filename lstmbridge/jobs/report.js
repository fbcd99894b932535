"use strict";
/* Draws what the records hold: the reasons, the lists, the table of files and the view of one file.
   Every text of the data goes into the page as text, never as markup. A file is a place in each column. */

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const files = data.files;
const total = files.source.length;
const everyFile = Array.from({ length: total }, (_, i) => i);

const VERDICTS = data.verdicts.map(([name]) => name);
const MEANING = Object.fromEntries(data.verdicts);
const SIGN = { done: "✓", reparameterised: "≈", lossy: "!", skipped: "○", refused: "–", unreadable: "?", disagreed: "✗", unwritten: "✗" };
const PAGE = 100;
const PRINTED = 2000;
const TOP = 10;
const REASONS = 12;

// ---- what a file's columns say

const verdictOf = (i) => VERDICTS[files.verdict[i]];
const number = (value) => (value === -1 ? Infinity : value);
const saidOf = (i) => files.why[i] || files.notes[i].map((n) => data.notes[n]).join("; ");
const linesOf = (text) => text.split(" | ");

const COLUMNS = {
  source: { label: "Source", value: (i) => files.source[i], natural: true },
  destination: { label: "Destination", value: (i) => files.destination[i], natural: true },
  verdict: { label: "Verdict", value: (i) => files.verdict[i], number: true },
  why: { label: "Why, notes", value: saidOf },
  layers: { label: "Layers", value: (i) => files.layers[i], number: true, most: true },
  largest: { label: "Difference", value: (i) => number(files.largest[i]), number: true, most: true },
  seconds: { label: "Seconds", value: (i) => files.seconds[i], number: true, most: true },
  size: { label: "Size", value: (i) => files.size[i], number: true, most: true },
};

// ---- small helpers

function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...content.filter((part) => part !== null));
  return made;
}

const thousands = (n) => n.toLocaleString("en");
const filesOf = (n) => `${thousands(n)} ${n === 1 ? "file" : "files"}`;
const button = (attributes, ...content) => element("button", { type: "button", ...attributes }, ...content);

function amount(x) {
  if (x === null) return "";
  if (!Number.isFinite(x)) return "∞";
  if (x === 0) return "0";
  return x >= 1e6 || x < 0.001 ? x.toExponential(1).replace(".0e", "e") : String(Number(x.toPrecision(3)));
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = n < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(n) / 10));
  return `${Number((n / 1024 ** power).toPrecision(3))} ${units[power]}`;
}

/** A path that can be broken after its slashes. */
const path = (text) => text.split(/(?<=\/)/).flatMap((part, n) => (n ? [element("wbr"), part] : [part]));

/** A file's name; it opens what is known of it. */
const nameOf = (i) => button({ class: "plain", onclick: () => openFile(i) }, element("span", { class: "clamp" }, ...path(files.source[i])));

const chip = (verdict) => element("span", { class: "chip", "data-verdict": verdict, title: MEANING[verdict] || null }, `${SIGN[verdict] || ""} ${verdict}`.trim());

/** A reason: what is the matter, and under it what was found and what to do. */
function reasonText(text) {
  const [head, ...rest] = linesOf(text);
  return [element("p", { class: "why" }, head), ...rest.map((line) => element("p", { class: "hint" }, line))];
}

// ---- the filters

const state = { text: "", verdicts: new Set(), reason: null, sort: "source", down: false, page: 0 };
let chosen = everyFile;

const searched = [];
function textOf(i) {
  searched[i] ??= `${files.source[i]}\n${files.destination[i]}\n${saidOf(i)}`.toLowerCase();
  return searched[i];
}

function matcher() {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  return (i) =>
    (!state.verdicts.size || state.verdicts.has(verdictOf(i))) &&
    (state.reason === null || files.reason[i] === state.reason) &&
    words.every((word) => textOf(i).includes(word));
}

const orders = {};
const natural = new Intl.Collator("en", { numeric: true });
const inOrder = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

/** The files by a column; those of which it says nothing come last, whichever way it is sorted. */
function order(name, down) {
  if (!orders[name]) {
    const column = COLUMNS[name];
    const keys = everyFile.map(column.value);
    const empty = (i) => keys[i] === null || keys[i] === "";
    const compare = column.natural ? natural.compare : inOrder;
    orders[name] = [everyFile.filter((i) => !empty(i)).sort((a, b) => compare(keys[a], keys[b]) || a - b), everyFile.filter(empty)];
  }
  const [said, unsaid] = orders[name];
  return [...(down ? [...said].reverse() : said), ...unsaid];
}

function makeFilters() {
  const sorting = Object.entries(COLUMNS).map(([name, column]) => element("option", { value: name }, column.label));
  byId("filters").append(
    element("label", {}, "Contains", element("input", { type: "search", name: "text", placeholder: "name, reason or note", autocomplete: "off" })),
    element("label", { class: "narrow" }, "Sorted by", element("select", { name: "sort" }, ...sorting)),
    element("label", { class: "narrow" }, "Order", element("select", { name: "down" }, element("option", { value: "" }, "up"), element("option", { value: "1" }, "down"))),
    element("div", { id: "picked", class: "picked" }),
    element("output", { id: "shown", "aria-live": "polite" }),
  );
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", ({ target }) => change({ [target.name]: target.name === "down" ? Boolean(target.value) : target.value }));
}

/** Turns the counts of the head into buttons, each with its verdict's files. */
function makeCounts() {
  for (const item of byId("counts")?.children || []) {
    const verdict = item.dataset.verdict;
    const made = button({ "aria-pressed": "false", "data-verdict": verdict, onclick: () => toggleVerdict(verdict) });
    made.append(element("i", { "aria-hidden": "true" }, SIGN[verdict]), ...item.childNodes);
    item.append(made);
  }
  for (const share of document.querySelectorAll(".bar i")) {
    share.title = share.dataset.verdict;
    share.addEventListener("click", () => toggleVerdict(share.dataset.verdict));
  }
}

function toggleVerdict(verdict) {
  const verdicts = new Set(state.verdicts);
  if (!verdicts.delete(verdict)) verdicts.add(verdict);
  change({ verdicts });
}

function pickReason(reason) {
  change({ reason: state.reason === reason ? null : reason, verdicts: new Set(), text: "" });
  if (state.reason !== null) {
    byId("files").scrollIntoView();
    byId("files-title").focus({ preventScroll: true });
  }
}

/** Sets filters, order or page, and draws what they leave; without a page of its own, from the first page on. */
function change(values) {
  Object.assign(state, { page: 0 }, values);
  chosen = order(state.sort, state.down).filter(matcher());
  state.page = Math.max(0, Math.min(state.page, Math.ceil(chosen.length / PAGE) - 1));
  setAddress();
  draw();
}

// ---- the address: a page with its filters can be passed on

function setAddress(file = null) {
  const query = {
    text: state.text,
    verdict: [...state.verdicts].join(","),
    reason: state.reason === null ? "" : String(state.reason),
    sort: state.sort === "source" && !state.down ? "" : state.sort,
    down: state.down ? "1" : "",
    page: state.page ? String(state.page + 1) : "",
    file: file === null ? "" : files.source[file],
  };
  const said = Object.entries(query).filter(([, value]) => value);
  if (!said.length && !location.hash.startsWith("#files?")) return;
  const address = said.length ? `#files?${new URLSearchParams(said)}` : location.pathname + location.search;
  try {
    history.replaceState(null, "", address);
  } catch {
    // a frame without an address of its own
  }
}

function followAddress() {
  const query = location.hash.startsWith("#files?") ? Object.fromEntries(new URLSearchParams(location.hash.slice("#files?".length))) : {};
  const reason = query.reason ? Number(query.reason) : null;
  change({
    text: query.text || "",
    verdicts: new Set((query.verdict || "").split(",").filter((name) => VERDICTS.includes(name))),
    reason: data.reasons[reason] ? reason : null,
    sort: Object.hasOwn(COLUMNS, query.sort || "") ? query.sort : "source",
    down: Boolean(query.down),
    page: Number(query.page) - 1 || 0,
  });
  const file = query.file ? files.source.indexOf(query.file) : -1;
  if (file >= 0) openFile(file);
}

// ---- the table

function draw() {
  for (const field of byId("filters").elements) if (field.name) setField(field);
  for (const one of document.querySelectorAll("#counts button")) one.setAttribute("aria-pressed", String(state.verdicts.has(one.dataset.verdict)));
  for (const one of document.querySelectorAll("[data-reason]")) one.setAttribute("aria-pressed", String(Number(one.dataset.reason) === state.reason));
  drawPicked();
  drawHead();
  drawRows(chosen.slice(state.page * PAGE, (state.page + 1) * PAGE));
  drawPager();
}

function setField(field) {
  const value = field.name === "down" ? (state.down ? "1" : "") : state[field.name];
  if (field.value !== value) field.value = value;
}

function drawPicked() {
  const picks = [...state.verdicts].map((verdict) => [verdict, () => toggleVerdict(verdict)]);
  if (state.reason !== null) picks.push([`reason: ${linesOf(data.reasons[state.reason].text)[0]}`, () => change({ reason: null })]);
  const clear = () => change({ text: "", verdicts: new Set(), reason: null });
  byId("picked").replaceChildren(
    ...picks.map(([text, drop]) => button({ class: "pick", "aria-label": `Leave out the filter ${text}`, onclick: drop }, element("span", {}, text), " ✕")),
    ...(picks.length + Boolean(state.text) > 1 ? [button({ class: "pick", onclick: clear }, "Clear all")] : []),
  );
  const first = state.page * PAGE;
  const range = chosen.length > PAGE ? `${thousands(first + 1)} to ${thousands(Math.min(first + PAGE, chosen.length))} of ` : "";
  byId("shown").textContent = `${range}${chosen.length === total ? filesOf(total) : `${thousands(chosen.length)} of ${filesOf(total)}`}`;
}

let body = null;

/** The table's head is made once, so that the button that sorts keeps the focus. */
function makeTable() {
  const heads = Object.entries(COLUMNS).map(([name, column]) => {
    const sort = () => change({ sort: name, down: state.sort === name ? !state.down : Boolean(column.most) });
    const sorter = button({ class: "sort", onclick: sort }, column.label);
    return element("th", { scope: "col", role: "columnheader", class: column.number && name !== "verdict" ? "number" : null, "data-column": name }, sorter);
  });
  body = element("tbody", { role: "rowgroup" });
  const caption = element("caption", { class: "unseen" }, "Files of this job; a name opens what is known of the file");
  const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads));
  byId("table-box").append(element("table", { role: "table", class: "files" }, caption, head, body));
}

function drawHead() {
  for (const head of document.querySelectorAll("th[data-column]")) {
    const sorted = head.dataset.column === state.sort;
    if (sorted) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function drawRows(places) {
  const none = element("tr", { role: "row" }, element("td", { role: "cell", colspan: Object.keys(COLUMNS).length }, "No file is left by these filters."));
  body.replaceChildren(...(places.length ? places.map(row) : [none]));
}

function row(i) {
  const cell = (name, ...content) => element("td", { role: "cell", class: `${name}${COLUMNS[name].number && name !== "verdict" ? " number" : ""}`, "data-label": COLUMNS[name].label }, ...content);
  const [head, ...rest] = files.why[i] ? linesOf(withoutName(i)) : files.notes[i].map((n) => data.notes[n]);
  const more = rest.length ? element("span", { class: "hint" }, `+ ${rest.length} more`) : null;
  const difference = number(files.largest[i]);
  return element(
    "tr",
    { role: "row" },
    element("th", { scope: "row", role: "rowheader" }, nameOf(i)),
    cell("destination", element("span", { class: "clamp" }, ...path(files.destination[i]))),
    cell("verdict", chip(verdictOf(i))),
    cell("why", head ? element("span", { class: "clamp" }, head) : null, more),
    cell("layers", files.layers[i] ? thousands(files.layers[i]) : ""),
    cell("largest", amount(difference)),
    cell("seconds", amount(files.seconds[i])),
    cell("size", bytes(files.size[i])),
  );
}

/** A reason without the name of its file before it, which stands in the row already. */
function withoutName(i) {
  const [why, name] = [files.why[i], `${files.source[i]}: `];
  const head = linesOf(why)[0].indexOf(name);
  return head < 0 ? why : why.slice(head + name.length);
}

function makePager() {
  const turn = (by) => () => {
    change({ page: state.page + by });
    byId("files").scrollIntoView();
  };
  byId("pager").append(button({ id: "earlier", onclick: turn(-1) }, "← Before"), element("span", { id: "page" }), button({ id: "later", onclick: turn(1) }, "After →"));
}

function drawPager() {
  const pages = Math.ceil(chosen.length / PAGE);
  byId("pager").hidden = pages < 2;
  byId("page").textContent = `Page ${state.page + 1} of ${thousands(pages)}`;
  const ends = { earlier: state.page === 0, later: state.page >= pages - 1 };
  for (const [id, end] of Object.entries(ends)) {
    if (end && document.activeElement === byId(id)) byId(end && id === "later" ? "earlier" : "later").focus();
    byId(id).disabled = end;
  }
}

// ---- the reasons

function drawReasons(all = false) {
  const members = data.reasons.map(() => []);
  for (const i of everyFile) if (files.reason[i] !== null) members[files.reason[i]].push(i);
  const most = members.length ? members[0].length : 0;
  const some = all ? data.reasons : data.reasons.slice(0, REASONS);
  const items = some.map(({ verdict, text }, n) => reasonItem(n, verdict, text, members[n], most));
  const rest = data.reasons.length - some.length;
  byId("reasons-list").replaceChildren(...items);
  byId("reasons").querySelector(".more")?.remove();
  if (rest) byId("reasons").append(button({ class: "more", onclick: () => drawAllReasons(some.length) }, `Show ${thousands(rest)} more ${rest === 1 ? "reason" : "reasons"}`));
}

function drawAllReasons(known) {
  drawReasons(true);
  draw();
  byId("reasons-list").children[known].querySelector("button").focus();
}

function reasonItem(n, verdict, text, members, most) {
  const examples = members.slice(0, 3).map((i) => element("li", {}, nameOf(i)));
  const show = button({ "data-reason": n, "aria-pressed": "false", onclick: () => pickReason(n) }, members.length === 1 ? "Show it in the table" : `Show these ${filesOf(members.length)}`);
  const meter = element("i", { class: "meter", "data-verdict": verdict, "aria-hidden": "true" });
  meter.style.width = `${(100 * members.length) / most}%`;
  return element(
    "li",
    {},
    element("div", { class: "count" }, element("b", {}, thousands(members.length)), " ", chip(verdict), meter),
    element("div", { class: "reason" }, ...reasonText(text), element("ul", { class: "examples", "aria-label": "Examples" }, ...examples), show),
  );
}

// ---- the lists

function drawNotable() {
  const share = (i) => (files.allowed[i] ? ` of ${amount(number(files.allowed[i]))} allowed` : "");
  const lists = [
    ["Slowest files", "seconds", (i) => verdictOf(i) !== "skipped", (i) => `${amount(files.seconds[i])} s`],
    ["Largest differences of source and target", "largest", (i) => files.largest[i] !== null, (i) => amount(number(files.largest[i])) + share(i)],
    ["Largest sources", "size", () => true, (i) => bytes(files.size[i])],
  ];
  const made = lists.map(([title, name, wanted, said]) => {
    const places = largest(TOP, COLUMNS[name].value, wanted);
    return places.length ? notableList(title, name, places, said) : null;
  });
  byId("notable-lists").append(...made.filter(Boolean));
}

/** The files with the largest values, without sorting all of them. */
function largest(most, value, wanted) {
  const found = [];
  for (const i of everyFile) {
    if (!wanted(i) || (found.length === most && value(i) <= value(found[most - 1]))) continue;
    const place = found.findIndex((other) => value(other) < value(i));
    found.splice(place < 0 ? found.length : place, 0, i);
    if (found.length > most) found.pop();
  }
  return found;
}

function notableList(title, name, places, said) {
  const value = COLUMNS[name].value;
  const most = value(places[0]);
  const items = places.map((i) => {
    const meter = element("i", { class: "meter", "aria-hidden": "true" });
    const part = value(i) === most ? 1 : value(i) / most;
    meter.style.width = `${most ? 100 * part : 0}%`;
    return element("li", {}, nameOf(i), " ", element("span", {}, said(i)), meter);
  });
  const all = button({ class: "plain", onclick: () => showSorted(name) }, "All files in this order");
  return element("div", {}, element("h3", {}, title), element("ol", {}, ...items), total > places.length ? all : null);
}

function showSorted(name) {
  change({ text: "", verdicts: new Set(), reason: null, sort: name, down: true });
  byId("files").scrollIntoView();
  byId("files-title").focus({ preventScroll: true });
}

// ---- one file

let details = null;
let opened = null;

function openFile(i) {
  details ??= JSON.parse(byId("details").textContent);
  opened = i;
  byId("detail-title").replaceChildren(...path(files.source[i]));
  byId("detail-content").replaceChildren(...detailOf(i, details.files[i]).filter(Boolean));
  const place = chosen.indexOf(i);
  byId("before").disabled = place < 1;
  byId("after").disabled = place < 0 || place >= chosen.length - 1;
  setAddress(i);
  if (!byId("detail").open) byId("detail").showModal();
  byId("detail").scrollTop = 0;
  byId("detail-title").focus();
}

function step(by) {
  const next = chosen[chosen.indexOf(opened) + by];
  if (chosen.includes(opened) && next !== undefined) openFile(next);
}

function detailOf(i, more) {
  const verdict = verdictOf(i);
  const was = more.was ? `; it was ${more.was} then` : "";
  const facts = [
    ["Output", data.with_output.includes(verdict) ? files.destination[i] : "none"],
    ["Seconds", amount(files.seconds[i])],
    ["Size of the source", bytes(files.size[i])],
  ];
  const notes = more.notes.map((n) => details.texts[n]);
  return [
    element("p", {}, chip(verdict), ` ${MEANING[verdict]}${was}`),
    files.why[i] ? element("div", { class: "box" }, ...reasonText(files.why[i])) : null,
    element("dl", { class: "facts" }, ...facts.map(([term, fact]) => element("div", {}, element("dt", {}, term), element("dd", {}, fact)))),
    ...list("Notes", notes),
    ...(more.layers.length ? [element("h3", {}, "Layers"), layersTable(more.layers.map(layerOf))] : []),
    ...(more.check ? checkOf(more.check, more.notes) : []),
    ...hashes("Source", more.files),
    ...hashes("Output", more.outputs),
  ];
}

const list = (title, texts) => (texts.length ? [element("h3", {}, title), element("ul", {}, ...texts.map((text) => element("li", { class: "lines" }, text)))] : []);

function table(caption, heads, rows, kind) {
  const head = heads.map(([label, kind]) => element("th", { scope: "col", class: kind }, label));
  const made = element("table", { class: kind }, element("caption", { class: "unseen" }, caption), element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  return element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption }, made);
}

/** A layer's report by the names of its fields, its texts in place of their numbers. */
function layerOf(values) {
  const text = (n) => (n === null ? "" : details.texts[n]);
  const said = { parameters: (n) => n, notes: (places) => places.map(text) };
  return Object.fromEntries(details.layer_fields.map((name, n) => [name, (said[name] || text)(values[n])]));
}

function layersTable(layers) {
  const rows = layers.map((layer) => {
    const label = layer.label || "layer";
    const name = !layer.target_label || layer.target_label === layer.label ? label : `${label} → ${layer.target_label}`;
    const verdict = layer.module && layer.module !== "stock" ? `${layer.verdict} (${layer.module} module)` : layer.verdict;
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, element("code", {}, ...path(name))),
      element("td", {}, layer.spec, ...layer.notes.map((note) => element("p", { class: "hint lines" }, note))),
      element("td", {}, verdict),
      element("td", { class: "number" }, layer.parameters === null ? "" : thousands(layer.parameters)),
    );
  });
  return table("Layers", [["Layer"], ["Spec"], ["Verdict"], ["Parameters", "number"]], rows, "layers");
}

function checkOf(check, noted) {
  const text = (n) => details.texts[n];
  const TEXTS = ["layer", "output", "verdict"];
  const rows = check.rows.map((values) => {
    const cell = Object.fromEntries(details.row_fields.map((field, n) => [field, TEXTS.includes(field) ? text(values[n]) : amount(number(values[n]))]));
    const figures = ["a - b", "a - reference", "b - reference", "allowed"].map((field) => element("td", { class: "number" }, cell[field]));
    return element("tr", {}, element("th", { scope: "row" }, element("code", {}, cell.layer || "layer")), element("td", {}, cell.output), ...figures, element("td", {}, cell.verdict));
  });
  const heads = [["Layer"], ["Output"], ["a − b", "number"], ["a − reference", "number"], ["b − reference", "number"], ["Allowed", "number"], ["Verdict"]];
  return [
    element("h3", {}, "Check"),
    element("p", {}, `a: ${text(check.a)}, b: ${text(check.b)}: ${check.agrees ? "they agree" : "they do not agree"}. The largest differences:`),
    table("Differences of the two sides and the reference", heads, rows),
    ...check.notes.filter((n) => !noted.includes(n)).map((n) => element("p", { class: "hint lines" }, text(n))),
  ];
}

function hashes(side, pairs) {
  if (!pairs.length) return [];
  const items = pairs.flatMap(([name, digest]) => [element("dt", {}, ...path(name)), element("dd", {}, element("code", {}, digest))]);
  return [element("h3", {}, `${side}, SHA-256`), element("dl", { class: "hashes" }, ...items)];
}

function keyInDetail(event) {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by || event.altKey || event.ctrlKey || event.metaKey || event.target.closest(".wide")) return;
  event.preventDefault();
  step(by);
}

// ---- printing: the pages of the table as one

function printAll() {
  drawRows(chosen.slice(0, PRINTED));
  byId("shown").textContent = chosen.length === total ? filesOf(total) : `${thousands(chosen.length)} of ${filesOf(total)}`;
  if (chosen.length > PRINTED) body.append(element("tr", {}, element("td", { colspan: Object.keys(COLUMNS).length }, `... and ${filesOf(chosen.length - PRINTED)} more, which are not printed`)));
}

// ---- start

function start() {
  const present = { reasons: data.reasons.length, notable: total > 1, files: total };
  for (const [id, there] of Object.entries(present)) {
    byId(id).hidden = !there;
    document.querySelector(`nav a[href="#${id}"]`).hidden = !there;
  }
  document.querySelector("nav").hidden = !total;
  document.querySelector(".skip").hidden = !total;
  if (!total) return;
  makeCounts();
  makeFilters();
  makeTable();
  makePager();
  drawReasons();
  if (total > 1) drawNotable();
  byId("close").addEventListener("click", () => byId("detail").close());
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  byId("detail").addEventListener("click", ({ target }) => target === byId("detail") && byId("detail").close());
  byId("detail").addEventListener("close", () => setAddress());
  byId("detail").addEventListener("keydown", keyInDetail);
  addEventListener("hashchange", () => location.hash.startsWith("#files?") && followAddress());
  addEventListener("beforeprint", printAll);
  addEventListener("afterprint", draw);
  followAddress();
}

start();
