"use strict";
/* Draws what follows the filters: the matrix, the differences, the refusals, the skips and the lists of cases.
   Every text of the data goes into the page as text, never as markup. */

// ---- the data: one array of values per column, a case is an index

const data = JSON.parse(document.getElementById("data").textContent);
const word = (column) => (i) => column.values[column.at[i]];
const number = (column) => (i) => (column[i] === -1 ? Infinity : column[i]);
const texts = ["suite", "cell", "source", "target", "dtype", "device", "outcome", "reason", "module", "verdict"];
const of = Object.fromEntries([...texts, "features", "checks"].map((name) => [name, word(data.columns[name])]));
const WITNESSES = { source: "source to reference", target: "target to reference", both: "source to target" };
const measured = Object.fromEntries(
  ["ulp", "error"].map((m) => [m, Object.fromEntries(Object.keys(WITNESSES).map((who) => [who, number(data.columns[`${m}_${who}`])]))]),
);
const seconds = number(data.columns.seconds);
const count = data.columns.outcome.at.length;
const everyCase = Array.from({ length: count }, (_, i) => i);
const idOf = (i) => data.columns.id.map((piece) => piece.values[piece.at[i]]).filter((piece) => piece !== null).join(" / ");

const SIGN = { agrees: "✓", mixed: "◐", refused: "–", failed: "✗", known: "!", skipped: "○" };
const SAID = { failed: "failed", known: "known", agrees: "agree", refused: "refused", skipped: "skipped" };
const ORDER = Object.keys(SAID);
const PAGE = 100;

// ---- small helpers

function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.addEventListener("click", value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...content.filter((part) => part !== null));
  return made;
}

function drawing(name, attributes = {}, ...content) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

const byId = (id) => document.getElementById(id);
const thousands = (n) => n.toLocaleString("en");
const cases = (n) => `${thousands(n)} case${n === 1 ? "" : "s"}`;
const distinct = (values) => [...new Set(values)];

function amount(x) {
  if (!Number.isFinite(x)) return "∞";
  if (x === 0) return "0";
  if (x >= 1e6 || x < 0.01) return x.toExponential(1);
  return x >= 100 ? thousands(Math.round(x)) : String(Number(x.toPrecision(3)));
}

function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) {
    const name = key(item);
    if (groups.has(name)) groups.get(name).push(item);
    else groups.set(name, [item]);
  }
  return groups;
}

function tally(indices) {
  const outcomes = Object.fromEntries(ORDER.map((outcome) => [outcome, 0]));
  for (const i of indices) outcomes[of.outcome(i)] += 1;
  return outcomes;
}

function sentence(indices) {
  const outcomes = tally(indices);
  return ORDER.filter((outcome) => outcomes[outcome]).map((outcome) => `${thousands(outcomes[outcome])} ${SAID[outcome]}`).join(", ");
}

// ---- the filters and the address

const base = (framework) => framework.replace(/\[.*\]$/, "");
const backendOf = (framework) => (framework.match(/\[(.*)\]$/) || [])[1];
const same = (framework, wanted) => framework === wanted || base(framework) === wanted;
const NO_KERAS = "without Keras";

function backends(i) {
  const found = distinct([of.source(i), of.target(i)].map(backendOf).filter(Boolean));
  return found.length ? found : [NO_KERAS];
}

const CHOICES = {
  cell: { label: "Cell", values: (i) => [of.cell(i)] },
  dtype: { label: "Number format", values: (i) => [of.dtype(i)] },
  device: { label: "Device", values: (i) => [of.device(i)] },
  suite: { label: "Suite", values: (i) => [of.suite(i)] },
  backend: { label: "Keras backend", values: backends },
};
const PICKS = ["feature", "source", "target", "outcome", "reason", "id"];
const filters = {};
let chosen = everyCase;

/** The condition of a query on a case: every filter and every pick that the query holds. */
function matcher(query) {
  const wanted = Object.entries(query).filter(([, value]) => value);
  const tests = {
    feature: (i, value) => of.features(i).includes(value),
    source: (i, value) => same(of.source(i), value),
    target: (i, value) => same(of.target(i), value),
    outcome: (i, value) => of.outcome(i) === value,
    reason: (i, value) => of.reason(i) === value,
    id: (i, value) => idOf(i) === value,
    text: (i, value) => idOf(i).toLowerCase().includes(value.toLowerCase()),
    apart: () => true,
  };
  for (const [name, choice] of Object.entries(CHOICES)) tests[name] = (i, value) => choice.values(i).includes(value);
  return (i) => wanted.every(([name, value]) => tests[name](i, value));
}

function addressOf(query) {
  const entries = Object.entries(query).filter(([, value]) => value);
  return entries.length ? `#cases?${new URLSearchParams(entries)}` : "";
}

function setAddress(query) {
  history.replaceState(null, "", addressOf(query) || location.pathname + location.search);
}

function makeFilters() {
  const form = byId("filters");
  for (const [name, choice] of Object.entries(CHOICES)) {
    const values = distinct(everyCase.flatMap(choice.values));
    if (values.length < 2) continue;
    const select = element("select", { name }, element("option", { value: "" }, "all"), ...values.map((value) => element("option", { value }, value)));
    form.append(element("label", {}, choice.label, select));
  }
  form.append(element("label", {}, "Id contains", element("input", { type: "search", name: "text", placeholder: "e.g. clip+no-bias" })));
  if (distinct(everyCase.map(of.source)).filter((name) => backendOf(name)).length > 1)
    form.append(element("label", { class: "check" }, element("input", { type: "checkbox", name: "apart" }), "Backends apart"));
  form.append(
    element("button", { type: "button", onclick: () => openCases({}) }, "List these cases"),
    element("output", { id: "shown", "aria-live": "polite" }),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    readForm();
    setAddress(filters);
    draw();
  });
}

function readForm() {
  for (const field of byId("filters").elements)
    if (field.name) filters[field.name] = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value.trim();
}

/** Sets the filters from the address, and opens the cases it picks. */
function followAddress() {
  if (!location.hash.startsWith("#cases?")) return;
  const query = Object.fromEntries(new URLSearchParams(location.hash.slice("#cases?".length)));
  for (const field of byId("filters").elements) {
    if (field.type === "checkbox") field.checked = Boolean(query[field.name]);
    else if (field.name) field.value = query[field.name] || "";
  }
  readForm();
  draw();
  const picks = Object.fromEntries(PICKS.filter((name) => query[name]).map((name) => [name, query[name]]));
  if (Object.keys(picks).length) openCases(picks);
}

function draw() {
  chosen = everyCase.filter(matcher(filters));
  byId("shown").textContent = chosen.length === count ? cases(count) : `${thousands(chosen.length)} of ${cases(count)}`;
  drawMatrix();
  drawDifferences();
  drawRefusals();
  drawSkips();
}

// ---- the matrix

/** The state of an entry: the worst outcome in it decides; agreement and refusal together are mixed. */
function stateOf(outcomes) {
  if (outcomes.failed) return "failed";
  if (outcomes.known) return "known";
  if (outcomes.agrees) return outcomes.refused ? "mixed" : "agrees";
  return outcomes.refused ? "refused" : "skipped";
}

function label(state, outcomes, total) {
  const part = { mixed: outcomes.agrees, failed: outcomes.failed, known: outcomes.known }[state];
  return `${SIGN[state]} ${part === undefined ? "" : `${thousands(part)}/`}${thousands(total)}`;
}

const BASES = distinct(everyCase.flatMap((i) => [base(of.source(i)), base(of.target(i))]));
const column = (name) => (filters.apart ? name : base(name));

/** Each source with its targets, in order of appearance, the backends of Keras side by side. */
function pairsOf(indices) {
  const sources = new Map();
  for (const i of indices) {
    const source = column(of.source(i));
    if (!sources.has(source)) sources.set(source, new Set());
    sources.get(source).add(column(of.target(i)));
  }
  const sorted = (names) => [...names].sort((a, b) => BASES.indexOf(base(a)) - BASES.indexOf(base(b)) || a.localeCompare(b));
  return sorted(sources.keys()).map((source) => [source, sorted(sources.get(source))]);
}

function named(framework) {
  const backend = backendOf(framework);
  return backend ? [base(framework), element("small", {}, backend)] : [framework];
}

/** Frameworks by frameworks, and below it the file formats, which have columns of their own. */
function drawMatrix() {
  const box = byId("matrix-box");
  const isFile = (i) => of.source(i).startsWith(".");
  const parts = [chosen.filter((i) => !isFile(i)), chosen.filter(isFile)].filter((indices) => indices.length);
  if (!parts.length) return box.replaceChildren(element("p", {}, "No case is left by these filters."));
  box.replaceChildren(...parts.map((indices) => matrixOf(indices, isFile(indices[0]) ? "file format" : "framework")));
  const first = box.querySelector("tbody button");
  if (first) first.tabIndex = 0;
}

function matrixOf(indices, kind) {
  const pairs = pairsOf(indices);
  const entries = new Map();
  for (const i of indices) {
    const pair = `${column(of.source(i))}\n${column(of.target(i))}`;
    for (const feature of of.features(i)) {
      const key = `${feature}\n${pair}`;
      if (entries.has(key)) entries.get(key).push(i);
      else entries.set(key, [i]);
    }
  }
  const flat = pairs.flatMap(([source, targets]) => targets.map((target, n) => ({ source, target, first: n === 0 })));
  const present = new Set([...entries.keys()].map((key) => key.split("\n")[0]));
  const bodies = data.groups
    .map(([group, features]) => [group, features.filter((feature) => present.has(feature))])
    .filter(([, features]) => features.length)
    .map(([group, features]) =>
      element(
        "tbody",
        {},
        element("tr", {}, element("th", { scope: "rowgroup", class: "group" }, group), element("td", { colspan: flat.length })),
        ...features.map((feature) => matrixRow(feature, flat, entries)),
      ),
    );
  const caption = element("caption", { class: "unseen" }, `Outcomes by feature and pair of ${kind}s`);
  return element("table", {}, caption, ...matrixHead(pairs, flat), ...bodies);
}

function matrixHead(pairs, flat) {
  const move = { type: "button", tabindex: -1 };
  const top = pairs.map(([source, targets]) =>
    element("th", { scope: "colgroup", colspan: targets.length, class: "source" }, element("span", {}, `from ${source}`)),
  );
  const bottom = flat.map(({ source, target, first }) =>
    element(
      "th",
      { scope: "col", class: first ? "source" : null },
      element("button", { ...move, "aria-label": `${source} to ${target}`, onclick: () => openCases({ source, target }) }, ...named(target)),
    ),
  );
  const corner = element("th", { scope: "col", class: "corner", rowspan: 2 }, "Feature");
  return [element("thead", {}, element("tr", {}, corner, ...top), element("tr", {}, ...bottom))];
}

function matrixRow(feature, flat, entries) {
  const row = element("button", { type: "button", tabindex: -1, onclick: () => openCases({ feature }) }, feature);
  return element("tr", {}, element("th", { scope: "row" }, row), ...flat.map((place) => matrixEntry(feature, place, entries)));
}

function matrixEntry(feature, { source, target, first }, entries) {
  const found = entries.get(`${feature}\n${source}\n${target}`);
  if (!found) return element("td", { class: first ? "source" : null });
  const outcomes = tally(found);
  const state = stateOf(outcomes);
  const said = `${feature}, ${source} to ${target}: ${sentence(found)}`;
  const button = element(
    "button",
    { type: "button", tabindex: -1, "data-state": state, "aria-label": said, title: said, onclick: () => openCases({ feature, source, target }) },
    label(state, outcomes, found.length),
  );
  return element("td", { class: first ? "source" : null }, button);
}

/** Arrow keys move between the matrix's buttons; Tab enters and leaves it at the one used last. */
function moveInMatrix(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!step || event.target.tagName !== "BUTTON") return;
  const rows = [...byId("matrix-box").querySelectorAll("tr")].filter((row) => row.querySelector("button"));
  const spot = event.target.parentElement;
  const offset = (row) => (row.parentElement.tagName === "THEAD" ? 1 : 0);
  let r = rows.indexOf(spot.parentElement);
  let c = spot.cellIndex + offset(rows[r]);
  let next = null;
  while (!next) {
    [r, c] = [r + step[0], c + step[1]];
    if (!rows[r] || c < 0 || c - offset(rows[r]) >= rows[r].cells.length) return;
    const there = rows[r].cells[c - offset(rows[r])];
    next = there && there.querySelector("button");
  }
  event.preventDefault();
  for (const button of byId("matrix-box").querySelectorAll('button[tabindex="0"]')) button.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// ---- the differences

const LOWEST = -2;
const binOf = (x) => (x === 0 ? LOWEST - 1 : x === Infinity ? Infinity : Math.max(LOWEST, Math.ceil(Math.log2(x))));

function binName(k) {
  if (k < LOWEST) return "0";
  if (k === Infinity) return "∞";
  if (k < 0) return { "-1": "½", "-2": "¼" }[k];
  return k < 10 ? String(2 ** k) : k < 20 ? `${2 ** (k - 10)}k` : k < 30 ? `${2 ** (k - 20)}M` : `2^${k}`;
}

const DTYPES = ["float64", "float32", "float16", "bfloat16"];
const DEVICES = distinct(everyCase.map(of.device)).sort();
const place = (i) => DEVICES.indexOf(of.device(i)) * DTYPES.length + DTYPES.indexOf(of.dtype(i));

function drawDifferences() {
  const compared = chosen.filter((i) => of.outcome(i) !== "known" && Object.keys(WITNESSES).some((who) => measured.ulp[who](i) !== null));
  const groups = [...groupBy(compared, (i) => `${of.dtype(i)} on ${of.device(i)}`)].sort(([, [a]], [, [b]]) => place(a) - place(b));
  byId("histograms").replaceChildren(
    ...groups.flatMap(([name, indices]) => [
      element("h3", {}, name, " ", element("span", { class: "hint" }, `(${cases(indices.length)})`)),
      element("div", { class: "figures" }, ...histograms(name, indices)),
    ]),
    ...(groups.length ? [] : [element("p", {}, "No difference was measured in these cases.")]),
  );
}

/** The three histograms of one number format on one device, over the same bins. */
function histograms(name, indices) {
  const samples = Object.keys(WITNESSES).map((who) => [who, indices.filter((i) => measured.ulp[who](i) !== null)]);
  const occupied = samples.flatMap(([who, found]) => found.map((i) => binOf(measured.ulp[who](i))));
  const highest = occupied.reduce((top, k) => (k !== Infinity && k > top ? k : top), 2);
  const bins = Array.from({ length: highest - LOWEST + 2 }, (_, n) => LOWEST - 1 + n);
  if (occupied.includes(Infinity)) bins.push(Infinity);
  return samples.filter(([, found]) => found.length).map(([who, found]) => histogram(name, who, found, bins));
}

function histogram(name, who, indices, bins) {
  const ulp = measured.ulp[who];
  const sorted = [...indices].sort((a, b) => ulp(a) - ulp(b));
  const quantile = (q) => ulp(sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)]);
  const worst = sorted[sorted.length - 1];
  const zeros = indices.filter((i) => ulp(i) === 0).length;
  const share = zeros === indices.length ? "all" : `${((100 * zeros) / indices.length).toFixed(1)} %`;
  const facts = [
    ["median", amount(quantile(0.5))],
    ["99th percentile", amount(quantile(0.99))],
    ["largest", element("button", { type: "button", class: "plain", title: idOf(worst), onclick: () => openCases({ id: idOf(worst) }) }, amount(ulp(worst)))],
    ["no bit differs in", share],
  ];
  const said = `${name}, ${WITNESSES[who]}: median ${amount(quantile(0.5))} ULP, 99th percentile ${amount(quantile(0.99))}, largest ${amount(ulp(worst))}`;
  return element(
    "figure",
    {},
    element("figcaption", {}, WITNESSES[who][0].toUpperCase() + WITNESSES[who].slice(1)),
    bars(groupBy(indices, (i) => binOf(ulp(i))), bins, said),
    element("dl", {}, ...facts.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value)))),
  );
}

function bars(binned, bins, said) {
  const [width, height, top, bottom] = [320, 128, 16, 18];
  const step = width / bins.length;
  const most = Math.max(...[...binned.values()].map((found) => found.length));
  const every = Math.ceil(bins.length / 12);
  const tall = (n) => Math.max(1.5, ((height - top - bottom) * n) / most);
  const shapes = bins.flatMap((k, n) => {
    const size = (binned.get(k) || []).length;
    const middle = (n + 0.5) * step;
    const drawn = [];
    if (size) {
      const place = { x: n * step + 1, y: height - bottom - tall(size), width: Math.max(1, step - 2), height: tall(size) };
      drawn.push(drawing("rect", { ...place, class: k < LOWEST ? "zero" : "" }, drawing("title", {}, `${binName(k)} ULP: ${cases(size)}`)));
      if (size === most) drawn.push(drawing("text", { x: Math.min(Math.max(middle, 18), width - 18), y: place.y - 4 }, thousands(size)));
    }
    if (n % every === 0 || k === Infinity) drawn.push(drawing("text", { x: middle, y: height - 5 }, binName(k)));
    return drawn;
  });
  const axis = drawing("line", { x1: 0, x2: width, y1: height - bottom + 0.5, y2: height - bottom + 0.5 });
  return drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said }, axis, ...shapes);
}

// ---- refusals and skips

function reasonTable(caption, indices, query, hidden = false) {
  const groups = [...groupBy(indices, of.reason)].sort((a, b) => b[1].length - a[1].length);
  const rows = groups.map(([reason, found]) =>
    element(
      "tr",
      {},
      element("td", { class: "reason" }, reason || "no reason given"),
      element("td", { class: "number" }, listButton(found.length, { ...query, reason })),
    ),
  );
  const head = element("tr", {}, element("th", { scope: "col" }, "Reason"), element("th", { scope: "col", class: "number" }, "Cases"));
  return element("table", {}, element("caption", { class: hidden && "unseen" }, caption), element("thead", {}, head), element("tbody", {}, ...rows));
}

const listButton = (n, query) =>
  element("button", { type: "button", class: "plain", "aria-label": `list ${cases(n)}`, onclick: () => openCases(query) }, thousands(n));

function drawRefusals() {
  const refused = chosen.filter((i) => of.outcome(i) === "refused");
  const box = byId("refused");
  const open = new Set([...box.querySelectorAll("details[open]")].map((details) => details.dataset.target));
  const groups = [...groupBy(refused, (i) => base(of.target(i)))].sort((a, b) => b[1].length - a[1].length).map(([target, found]) => {
    const reasons = distinct(found.map(of.reason)).length;
    const said = ` ${cases(found.length)}, ${thousands(reasons)} reason${reasons === 1 ? "" : "s"}`;
    return element(
      "details",
      { "data-target": target, open: open.has(target) || (!box.childElementCount && reasons <= 12) },
      element("summary", {}, `to ${target}`, element("span", {}, said)),
      reasonTable(`Reasons of the refusals to ${target}`, found, { outcome: "refused", target }, true),
    );
  });
  box.replaceChildren(...(groups.length ? groups : [element("p", {}, "No case of these is refused.")]));
}

function drawSkips() {
  const part = (outcome, caption, none) => {
    const found = chosen.filter((i) => of.outcome(i) === outcome);
    return found.length ? element("div", { class: "wide" }, reasonTable(`${caption}: ${cases(found.length)}`, found, { outcome })) : element("p", {}, none);
  };
  byId("skipped").replaceChildren(
    part("skipped", "Skipped, for want of a framework or a device", "No case of these is skipped."),
    ...(chosen.some((i) => of.outcome(i) === "known") ? [part("known", "Cases in which other software disagrees", "")] : []),
  );
}

// ---- the list of cases

function titleOf(query) {
  const pair = query.source || query.target ? `${query.source || "any"} → ${query.target || "any"}` : "";
  return [pair, query.feature, query.outcome, query.reason, query.id].filter(Boolean).join(" · ") || "All cases shown";
}

/** Opens the list of the cases that the filters and these picks leave, and puts both into the address. */
function openCases(query) {
  const found = chosen.filter(matcher(query));
  found.sort((a, b) => ORDER.indexOf(of.outcome(a)) - ORDER.indexOf(of.outcome(b)) || a - b);
  const list = element("ol");
  const more = element("button", { type: "button", onclick: () => showMore() }, "");
  let shown = 0;
  function showMore() {
    list.append(...found.slice(shown, shown + PAGE).map(described));
    shown = Math.min(found.length, shown + PAGE);
    more.hidden = shown === found.length;
    more.textContent = `Show more (${thousands(found.length - shown)} left)`;
  }
  showMore();
  byId("cases-title").textContent = titleOf(query);
  byId("cases-summary").textContent = `${cases(found.length)}: ${sentence(found) || "the filters leave none"}`;
  byId("cases-list").replaceChildren(list, more);
  setAddress({ ...filters, ...query });
  const dialog = byId("cases");
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

/** One case: its id, its outcome with the reason, the checks it passed, and how far apart the witnesses are. */
function described(i) {
  const outcome = of.outcome(i);
  const facts = [
    ["checks", of.checks(i).join(", ")],
    ["module", of.module(i)],
    ["verdict", of.verdict(i)],
    ...Object.entries(WITNESSES).map(([who, said]) => [said, difference(i, who)]),
    ["time", seconds(i) === null ? "" : `${amount(seconds(i))} s`],
  ].filter(([, value]) => value);
  return element(
    "li",
    {},
    element("span", { class: "chip", "data-state": outcome }, `${SIGN[outcome]} ${outcome}`),
    element("code", { class: "id" }, ...idOf(i).split(/(?<= \/ )/).map((piece) => element("span", {}, piece))),
    of.reason(i) ? element(outcome === "failed" ? "pre" : "p", { class: "reason" }, of.reason(i)) : null,
    element("dl", {}, ...facts.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value)))),
  );
}

function difference(i, who) {
  const [ulp, error] = [measured.ulp[who](i), measured.error[who](i)];
  return [ulp === null ? "" : `${amount(ulp)} ULP`, error ? amount(error) : ""].filter(Boolean).join(", ");
}

// ---- the mutants

function makeMutantFilters() {
  const box = byId("mutant-filters");
  if (!box) return;
  const rows = [...byId("mutants").tBodies[0].rows];
  const checksOf = (row) => row.dataset.checks.split(" ").filter(Boolean);
  const checks = distinct(rows.flatMap(checksOf));
  const option = ([value, text]) => element("option", { value }, text);
  const check = element("select", {}, ...[["", "any"], ...checks.map((name) => [name, name])].map(option));
  const alone = element("input", { type: "checkbox" });
  const official = element("select", {}, ...[["", "all"], ["no", "pass"], ["yes", "notice it"]].map(option));
  const shown = element("output", { "aria-live": "polite" });
  const update = () => {
    for (const row of rows) {
      const killers = checksOf(row);
      const kept = (!check.value || killers.includes(check.value)) && (!alone.checked || killers.length === 1);
      row.hidden = !(kept && (!official.value || row.dataset.official === official.value));
    }
    shown.textContent = `${thousands(rows.filter((row) => !row.hidden).length)} of ${thousands(rows.length)} mutants`;
  };
  box.append(
    element("label", {}, "Killed by", check),
    element("label", {}, "Official ONNX node tests", official),
    element("label", { class: "check" }, alone, "by one check alone"),
    shown,
  );
  box.addEventListener("input", update);
  update();
}

// ---- start

makeFilters();
makeMutantFilters();
readForm();
draw();
byId("matrix-box").addEventListener("keydown", moveInMatrix);
byId("close").addEventListener("click", () => byId("cases").close());
byId("cases").addEventListener("click", (event) => event.target === byId("cases") && byId("cases").close());
byId("cases").addEventListener("close", () => setAddress(filters));
addEventListener("hashchange", followAddress);
followAddress();
