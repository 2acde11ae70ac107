"use strict";
// Draws ATTENTION (attention-data.js): how much each token of a sentence attends to earlier ones.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const chosen = { query: 0, key: 0 };

const sentence = () => ATTENTION.sentences[byId("sentence").value];
const written = (token) => (token.trim() ? token.replace(/^ /, "") : "␣");
const quoted = (i) => `“${written(sentence().tokens[i])}”`;
const weightText = (weight) => (weight / 1000).toFixed(3);
const shade = (weight) => Math.sqrt(weight / 1000);

// Thousandths, a row a query, each as long as what the query can see.
function rows() {
  const heads = sentence().maps[byId("layer").value];
  if (byId("head").value !== "mean") return heads[byId("head").value];
  const mean = (q, k) => heads.reduce((sum, head) => sum + head[q][k], 0) / heads.length;
  return heads[0].map((row, q) => row.map((_, k) => mean(q, k)));
}

function element(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function buildStrip() {
  const strip = byId("strip");
  strip.replaceChildren();
  sentence().tokens.forEach((token, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = token;
    button.addEventListener("click", () => chooseToken(i));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const next = step && strip.children[i + step];
      if (!next) return;
      event.preventDefault();
      next.focus();
      chooseToken(i + step);
    });
    strip.append(button);
  });
}

function buildMap() {
  const map = byId("map");
  const tokens = sentence().tokens.map(written);
  const margin = 14 + 8 * Math.max(...tokens.map((token) => token.length));
  const room = map.parentElement.clientWidth - margin - 2;
  const cell = Math.max(15, Math.min(30, Math.floor(room / tokens.length)));
  const size = margin + cell * tokens.length;
  map.setAttribute("width", size + 2); // room for the frame around a cell at the edge
  map.setAttribute("height", size + 2);
  map.replaceChildren();
  tokens.forEach((token, i) => {
    const middle = margin + cell * (i + 0.5);
    const side = { x: margin - 6, y: middle, "text-anchor": "end" };
    const top = { transform: `translate(${middle} ${margin - 6}) rotate(-90)` };
    map.append(element("text", { ...side, "data-row": i, "dominant-baseline": "central" }, token));
    map.append(element("text", { ...top, "data-column": i, "dominant-baseline": "central" }, token));
  });
  tokens.forEach((_, query) => {
    for (let key = 0; key <= query; key++) {
      const place = { x: margin + cell * key, y: margin + cell * query, width: cell, height: cell };
      map.append(element("rect", { ...place, "data-query": query, "data-key": key }));
    }
  });
}

function buildLegend() {
  for (const weight of [0, 10, 50, 100, 250, 500, 1000]) {
    const item = document.createElement("li");
    item.style.setProperty("--weight", shade(weight));
    item.textContent = weight / 1000;
    byId("legend").append(item);
  }
}

// Everything that depends on the layer, the head and what is chosen.
function paint() {
  const weights = rows();
  const { query, key } = chosen;
  for (const rect of byId("map").querySelectorAll("rect")) {
    const { query: q, key: k } = rect.dataset;
    rect.style.setProperty("--weight", shade(weights[q][k]));
    const isChosen = Number(q) === query && Number(k) === key;
    rect.classList.toggle("chosen", isChosen);
    if (isChosen) rect.parentNode.append(rect); // its frame lies above its neighbours
  }
  for (const label of byId("map").querySelectorAll("text")) {
    const { row, column } = label.dataset;
    label.classList.toggle("chosen", Number(row) === query || Number(column) === key);
  }
  [...byId("strip").children].forEach((button, i) => {
    const weight = i <= query ? weights[query][i] : 0;
    button.style.setProperty("--weight", shade(weight));
    button.classList.toggle("later", i > query);
    button.setAttribute("aria-pressed", i === query);
    button.title = i <= query ? weightText(weight) : "later: out of sight";
  });
  const order = weights[query].map((weight, i) => [weight, i]).sort((a, b) => b[0] - a[0]);
  const most = order.slice(0, 3).map(([weight, i]) =>
    i === query ? `itself ${weightText(weight)}` : `${quoted(i)} ${weightText(weight)}`);
  byId("looks").textContent = `${quoted(query)} attends most to ${most.join(", ")}.`;
  say(query, key);
}

function say(query, key) {
  const target = query === key ? "itself" : quoted(key);
  const weight = weightText(rows()[query][key]);
  byId("weight").textContent = `${quoted(query)} attends to ${target}: ${weight}`;
}

function choose(query, key) {
  Object.assign(chosen, { query, key });
  paint();
}

function chooseToken(query) {
  const row = rows()[query];
  choose(query, row.indexOf(Math.max(...row)));
}

function move(event) {
  const last = sentence().tokens.length - 1;
  const { query, key } = chosen;
  const to = {
    ArrowUp: [query - 1, Math.min(key, query - 1)],
    ArrowDown: [query + 1, key],
    ArrowLeft: [query, key - 1],
    ArrowRight: [query, key + 1],
    Home: [query, 0],
    End: [query, query],
  }[event.key];
  if (!to) return;
  event.preventDefault();
  const [row, column] = to;
  if (row >= 0 && row <= last && column >= 0 && column <= row) choose(row, column);
}

function cellUnder(event) {
  const { query, key } = event.target.dataset;
  return query === undefined ? null : [Number(query), Number(key)];
}

function openSentence() {
  byId("note").textContent = sentence().note;
  buildStrip();
  buildMap();
  chooseToken(sentence().tokens.length - 1);
}

byId("sentence").addEventListener("change", openSentence);
byId("layer").addEventListener("change", paint);
byId("head").addEventListener("change", paint);
byId("map").addEventListener("keydown", move);
byId("map").addEventListener("click", (event) => {
  const cell = cellUnder(event);
  if (cell) choose(...cell);
});
byId("map").addEventListener("pointermove", (event) => {
  const cell = cellUnder(event);
  if (cell) say(...cell);
});
byId("map").addEventListener("pointerleave", () => say(chosen.query, chosen.key));
addEventListener("resize", () => {
  buildMap();
  paint();
});
buildLegend();
openSentence();
