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
      node.stage, node.scope, node.state?.status, [...new Set(labels)],
    ];
    return words.flat().join("\n").toLowerCase();
  });
  return haystacks[number];
}
