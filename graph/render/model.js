// The view, who makes and who uses what, and small helpers to write HTML.

const view = JSON.parse(document.getElementById("view").textContent);
const nodes = view.nodes;
const makers = nodes.map(() => []);
const users = nodes.map(() => []);
for (const edge of view.edges) {
  makers[edge.user].push(edge);
  users[edge.maker].push(edge);
}
const byAddress = new Map();
nodes.forEach((node, number) => {
  for (const address of [node.address, ...node.addresses]) {
    if (!byAddress.has(address)) byAddress.set(address, number);
  }
});

// Returns the numbers of `starts` and of everything that edges lead to from them.
function reach(starts, edges, end) {
  const reached = new Set(starts);
  for (const number of reached) {
    for (const edge of edges[number]) reached.add(edge[end]);
  }
  return reached;
}

// Control characters and marks of direction as escapes, as `printable` does in Python.
function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (character) => {
    const code = character.codePointAt(0);
    if (code < 256) return "\\x" + code.toString(16).padStart(2, "0");
    return "\\u" + code.toString(16).padStart(4, "0");
  });
}

// Returns an element; strings among `children` become text, never HTML.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Returns `text`, its middle replaced by an ellipsis where it is longer than `room` characters.
function clip(text, room) {
  const characters = Array.from(text);
  if (characters.length <= room) return text;
  const start = Math.floor((room - 1) / 3);
  return characters.slice(0, start).join("") + "…" + characters.slice(start + 1 - room).join("");
}

// Numbers with their units, as Python's `quantity` writes them.
function three(number) {
  const digits = number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2;
  return number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function seconds(number) {
  if (number >= 3600) return `${(number / 3600).toFixed(1)} h`;
  if (number >= 0.9995) return `${three(number)} s`;
  if (number >= 0.0009995) return `${three(number * 1e3)} ms`;
  return `${Math.round(number * 1e6)} µs`;
}

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let power = 0;
  while (number >= 999.5 && power < units.length - 1) [number, power] = [number / 1024, power + 1];
  return `${power ? three(number) : Math.round(number)} ${units[power]}`;
}

function share(part) {
  return part > 0 && part < 0.0005 ? "<0.1%" : `${(100 * part).toFixed(1)}%`;
}

function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// Everything of a node that a search looks through; made once, when first asked for.
let haystacks = null;
function haystack(number) {
  haystacks ??= nodes.map((node) => {
    const labels = node.sites.map((site) => view.instructions[site.instruction].label);
    const outputs = node.outputs.flatMap((output) => [
      output.port, output.type, output.stored === null ? "" : "stored",
    ]);
    const words = [
      node.addresses, node.op, JSON.stringify(node.params), outputs, node.key, node.rows,
      node.stage, node.scope, node.state?.status, node.change?.kind, [...new Set(labels)],
    ];
    return words.flat().join("\n").toLowerCase();
  });
  return haystacks[number];
}
