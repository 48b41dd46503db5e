// The panel: everything about one node, about the members of a box, or about the whole graph.

const panel = document.getElementById("panel");
const MAX_ROWS = 40;

function showNode(number, members) {
  const node = nodes[number];
  const back = members.length > 1
    ? make("button", { class: "back", type: "button", onclick: () => chooseBox(members) },
      `‹ all ${members.length.toLocaleString("en")}`)
    : null;
  const others = node.addresses.filter((address) => address !== node.address);
  fill(
    back,
    make("h2", {}, visible(node.address), copyButton("address", node.address)),
    make("p", { class: "soft" }, `${node.op} · version ${node.version}`),
    chips(node),
    others.length ? section("Also at", list(others, (address) =>
      make("div", { class: "row" }, visible(address)))) : null,
    node.change ? section("Change", describeChange(node.change)) : null,
    node.measure ? section("Cost", describeMeasure([node.measure])) : null,
    node.previews.length ? section("Samples", node.previews.map(describePreview)) : null,
    section(node.outputs.length > 1 ? "Outputs" : "Output", node.outputs.map(describeOutput)),
    section("Parameters", describeParams(node)),
    section("Identity", describeIdentity(node)),
    node.sites.length ? section("Instructions", listInstructions(sitesByInstruction(node))) : null,
    section("Look closer", describeCommands(node)),
    section("Reads", list(makers[number], (edge) =>
      link(edge.maker, edge.input, edge.output))),
    section("Is read by", list(users[number], (edge) => link(edge.user, edge.output, edge.input))),
  );
}

function showBox(members) {
  const box = boxOf(members[0]);
  const first = nodes[members[0]];
  const same = members.every((number) => nodes[number].op === first.op);
  const number = (members.length / box.ops).toLocaleString("en");
  const heading = box.ops > 1 ? `low-impact chain, ${box.ops} ops`
    : `${number} × ${same ? first.op : "several ops"}`;
  const about = box.ops > 1
    ? "Ops one after the other that together take under 1% of the time of their lane."
    : "These nodes look alike, and so does what is around them, so they share a box.";
  const measures = members.map((one) => nodes[one].measure).filter((measure) => measure);
  fill(
    make("h2", {}, heading),
    make("p", { class: "soft" }, about),
    countStates(members),
    measures.length ? section("Cost", describeMeasure(measures)) : null,
    section("Members", list(members, (one) => link(one, null, null, members))),
  );
}

function countStates(members) {
  const words = new Map();
  for (const number of members) {
    for (const word of [nodes[number].change?.kind, nodes[number].state?.status]) {
      if (word) words.set(word, (words.get(word) ?? 0) + 1);
    }
  }
  return words.size ? make("div", { class: "chips" }, [...words].map(([word, number]) =>
    make("span", { class: "state" }, mark(word), `${number.toLocaleString("en")} ${word}`))) : null;
}

function showGraph() {
  const instructions = view.instructions.map((_, number) => ({ number, spans: [] }));
  fill(
    make("h2", {}, view.diff ? "What changed" : "Overview"),
    make("p", { class: "soft" },
      "Select a box for its type, parameters, key and instructions. Select an instruction to light "
      + "the nodes that compute it."),
    view.remarks.map((remark) => make("p", {}, visible(remark))),
    view.diff ? showChanges() : null,
    nodes.some((node) => node.measure) ? section("Where time goes", listCosts()) : null,
    instructions.length ? section("Instructions", listInstructions(instructions)) : null,
    view.results.length ? section("Results", list(view.results, (result) =>
      link(result.node, result.name))) : null,
  );
}

// The nodes that took most, first; all of a lane's shares add up to its time.
function listCosts() {
  const ran = nodes.map((node, number) => ({ number, measure: node.measure }))
    .filter(({ measure }) => measure && measure.seconds > 0);
  ran.sort((a, b) => b.measure.seconds - a.measure.seconds);
  return list(ran.slice(0, 8), ({ number, measure }) => {
    const row = link(number);
    row.prepend(make("span", { class: "aside" },
      `${seconds(measure.seconds)} · ${share(measure.share)}`));
    return row;
  });
}

function showChanges() {
  const kinds = ["added", "removed", "changed", "follows", "moved"];
  const groups = kinds.map((kind) => [kind, nodes.flatMap((node, number) =>
    (node.change?.kind === kind ? [number] : []))]).filter(([, numbers]) => numbers.length);
  const rebuilt = nodes.filter((node) => node.change?.rebuilds);
  const sum = (name) => (rebuilt.some((node) => node.change[name] === null) ? null
    : rebuilt.reduce((total, node) => total + node.change[name], 0));
  const size = [sum("rows") === null ? null : count(sum("rows"), "value"),
    sum("bytes") === null ? null : `about ${bytes(sum("bytes"))}`].filter((text) => text);
  return make("div", {},
    make("p", {}, rebuilt.length
      ? `A build computes ${count(rebuilt.length, "column")} anew${size.length ? `: ${size.join(", ")}` : ""}.`
      : "A build has nothing to compute anew."),
    groups.length ? groups.map(([kind, numbers]) => section(`${kind} (${numbers.length.toLocaleString("en")})`,
      list(numbers, (number) => {
        const row = link(number);
        row.prepend(make("span", { class: "state" }, mark(kind)));
        return row;
      }))) : make("p", {}, "Both graphs compute the same."));
}

function fill(...children) {
  panel.replaceChildren(...children.flat().filter((child) => child !== null));
  panel.scrollTop = 0;
}

function section(title, content) {
  return make("section", {}, make("h3", {}, title), content);
}

// A list that shows its first rows, and the others when asked.
function list(items, row) {
  if (!items.length) return make("p", { class: "soft" }, "nothing");
  const element = make("ul", {}, items.slice(0, MAX_ROWS).map((item) => make("li", {}, row(item))));
  if (items.length > MAX_ROWS) {
    const more = make("button", { class: "more", type: "button", onclick: () => {
      more.parentElement.replaceWith(...items.slice(MAX_ROWS).map((i) => make("li", {}, row(i))));
    } }, `and ${count(items.length - MAX_ROWS, "more").replace(/s$/, "")}`);
    element.append(make("li", {}, more));
  }
  return element;
}

function chips(node) {
  const scope = node.scope ? make("span", { class: "chip" }, `θ ${visible(node.scope)}`) : null;
  const state = node.state ? make("p", { class: "state" }, mark(node.state.status),
    make("span", {}, node.state.status, node.state.why ? `: ${visible(node.state.why)}` : "")) : null;
  return make("div", {}, make("div", { class: "chips" },
    make("span", { class: `chip ${node.stage}` }, node.stage), scope), state);
}

function describeOutput(output) {
  return make("div", {},
    make("p", {}, output.port === "out" ? null : `${visible(output.port)} `,
      make("code", {}, visible(output.type))),
    output.stored === null ? null : make("p", { class: "state" }, mark("stored"),
      make("span", {}, `stored: ${visible(output.stored) || "no reason given"}`)));
}

function describeParams(node) {
  const names = Object.keys(node.params);
  if (!names.length) return make("p", { class: "soft" }, "none");
  return make("dl", {}, names.flatMap((name) => [
    make("dt", { class: node.changed.includes(name) ? "changed" : null }, visible(name)),
    make("dd", {}, make("code", {}, visible(JSON.stringify(node.params[name]))),
      node.changed.includes(name) ? null : make("span", { class: "soft" }, " default")),
  ]));
}

function describeIdentity(node) {
  const segment = node.segment === null ? null : view.segments[node.segment];
  const where = segment?.in_process ? "in a worker process" : "in a thread";
  const facts = [
    ["key", [make("code", {}, node.key), copyButton("key", node.key)]],
    ["rows", node.rows ? visible(node.rows) : "constant, the same for every row"],
    ["runs", segment ? `segment ${node.segment + 1}, ${where}` : node.stage],
  ];
  return make("dl", {}, facts.flatMap(([name, value]) => [
    make("dt", {}, name), make("dd", {}, value),
  ]));
}

function link(number, name = null, port = null, members = null) {
  const far = port === null || port === "out" ? "" : `:${visible(port)}`;
  return make("button", { class: "row", type: "button", title: visible(nodes[number].address),
    onclick: () => chooseNode(number, members) },
  name === null ? null : make("span", { class: "soft" }, `${visible(name)}  `),
  visible(nodes[number].address) + far,
  members ? make("span", { class: "soft" }, sideNote(nodes[number])) : null);
}

// What tells the members of a box apart: what became of each, its state and its time.
function sideNote(node) {
  const facts = [node.change?.kind, node.state?.status, node.measure ? seconds(node.measure.seconds) : null];
  return facts.filter((fact) => fact).map((fact) => `  ${fact}`).join("");
}

function sitesByInstruction(node) {
  const found = new Map();
  for (const { instruction, start, stop } of node.sites) {
    if (!found.has(instruction)) found.set(instruction, { number: instruction, spans: [] });
    found.get(instruction).spans.push([start, stop]);
  }
  return [...found.values()];
}

function listInstructions(items) {
  const element = list(items, ({ number, spans }) => {
    const { label, text } = view.instructions[number];
    return make("button", { class: "instruction", type: "button",
      "aria-pressed": String(chosen.instruction === number),
      onclick: () => chooseInstruction(number) },
    make("span", { class: "label" }, visible(label)), make("code", {}, light(text, spans)));
  });
  return make("div", { class: "instructions" }, element);
}

// Returns `text` in pieces, those inside `spans` as marks. Spans count code points, as Python does.
function light(text, spans) {
  const characters = Array.from(text);
  const pieces = [];
  let place = 0;
  for (const [start, stop] of [...spans].sort((a, b) => a[0] - b[0])) {
    if (start < place) continue;
    pieces.push(visible(characters.slice(place, start).join("")));
    pieces.push(make("mark", {}, visible(characters.slice(start, stop).join(""))));
    place = stop;
  }
  return [...pieces, visible(characters.slice(place).join(""))];
}

// Returns the mark of `word`, copied from the legend, which has every mark that the graph needs.
function mark(word) {
  const found = document.querySelector(`.legend .mark.${word}`);
  return found ? found.ownerSVGElement.cloneNode(true) : "";
}

function copyButton(what, text) {
  const button = make("button", { class: "copy", type: "button", "aria-label": `Copy ${what}`,
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "copied";
      } catch {
        button.textContent = "select and press Ctrl+C";
      }
      setTimeout(() => { button.textContent = "copy"; }, 1600);
    } }, "copy");
  return button;
}
