"use strict";
// Draws ATTENTION: how much each token of a sentence (a query) attends to itself and to earlier
// ones (its keys). Weights are in thousandths.

const byId = (id) => document.getElementById(id);
const sentence = () => ATTENTION.sentences[byId("sentence").value];
const written = (i) => sentence().tokens[i].trim() || "␣";
const decimals = (weight) => (weight / 1000).toFixed(3);
// With the square root, small weights can be seen.
const shade = (element, weight) => element.style.setProperty("--weight", Math.sqrt(weight / 1000));
let chosen = 0; // the query

// A row a query, each as long as what the query can see.
function rows() {
  const heads = sentence().maps[byId("layer").value];
  if (byId("head").value !== "mean") return heads[byId("head").value];
  const mean = (q, k) => heads.reduce((sum, head) => sum + head[q][k], 0) / heads.length;
  return heads[0].map((row, q) => row.map((_, k) => mean(q, k)));
}

function add(parent, tag, text = "") {
  const made = parent.appendChild(document.createElement(tag));
  made.textContent = text;
  return made;
}

function openSentence() {
  const { tokens, note } = sentence();
  byId("note").textContent = note;
  byId("strip").replaceChildren();
  byId("map").replaceChildren();
  byId("map").style.setProperty("--tokens", tokens.length);
  const head = add(byId("map"), "tr");
  add(head, "td");
  tokens.forEach((token, query) => {
    const button = add(byId("strip"), "button", token);
    button.type = "button";
    button.addEventListener("click", () => choose(query));
    add(add(head, "th"), "span", written(query));
    const row = add(byId("map"), "tr");
    add(row, "th", written(query));
    for (let key = 0; key <= query; key++) {
      const cell = add(row, "td");
      cell.addEventListener("pointerenter", () => say(query, key));
      cell.addEventListener("click", () => choose(query, key));
    }
  });
  choose(tokens.length - 1);
}

function choose(query, key = undefined) {
  chosen = query;
  paint();
  if (key !== undefined) say(query, key);
}

// Everything that depends on the layer, the head and the chosen token.
function paint() {
  const weights = rows();
  const row = weights[chosen];
  weights.forEach((keys, query) => {
    const line = byId("map").rows[query + 1];
    line.classList.toggle("chosen", query === chosen);
    keys.forEach((weight, key) => shade(line.cells[key + 1], weight));
  });
  [...byId("strip").children].forEach((button, i) => {
    shade(button, row[i] ?? 0);
    button.classList.toggle("later", i > chosen);
    button.setAttribute("aria-pressed", i === chosen);
    button.title = i > chosen ? "later: out of sight" : decimals(row[i]);
  });
  const most = row.map((weight, i) => [weight, i]).sort((a, b) => b[0] - a[0]).slice(0, 3);
  const named = most.map(([weight, i]) => `${target(chosen, i)} ${decimals(weight)}`);
  byId("looks").textContent = `“${written(chosen)}” attends most to ${named.join(", ")}.`;
  say(chosen, most[0][1]);
}

const target = (query, key) => (query === key ? "itself" : `“${written(key)}”`);

function say(query, key) {
  const weight = decimals(rows()[query][key]);
  byId("weight").textContent = `“${written(query)}” attends to ${target(query, key)}: ${weight}`;
}

byId("sentence").addEventListener("change", openSentence);
byId("layer").addEventListener("change", paint);
byId("head").addEventListener("change", paint);
openSentence();
