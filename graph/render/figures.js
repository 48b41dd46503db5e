// What a node cost, what became of it, samples of what it gave, and commands that look closer.

function describeTable(facts) {
  return make("dl", {}, facts.filter((fact) => fact).flatMap(([name, ...value]) => [
    make("dt", {}, name), make("dd", {}, value),
  ]));
}

function describeMeasure(measures) {
  const total = (name) => measures.reduce((sum, measure) => sum + measure[name], 0);
  const [rowsIn, rowsOut, rejects] = ["rows_in", "rows_out", "rejects"].map(total);
  const number = (value) => value.toLocaleString("en");
  const part = total("share");
  const heat = draw("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none",
    "aria-hidden": "true" },
  draw("rect", { class: "track", width: 100, height: 6 }),
  draw("rect", { class: "heat", width: Math.max(Math.min(100 * part, 100), 0.8), height: 6 }));
  const most = measures.reduce((a, b) => (b.seconds > a.seconds ? b : a));
  const least = measures.reduce((a, b) => (b.seconds < a.seconds ? b : a));
  const spread = measures.length > 1
    ? ["each", `${seconds(least.seconds)} to ${seconds(most.seconds)}`] : null;
  return make("div", {}, heat, describeTable([
    ["time", `${seconds(total("seconds"))}, ${share(part)} of its lane`],
    spread,
    total("backward_seconds") ? ["gradient", `${seconds(total("backward_seconds"))} of it`] : null,
    ["rows", rowsIn === rowsOut ? number(rowsIn) : `${number(rowsIn)} → ${number(rowsOut)}`],
    rejects ? ["rejected", make("span", { class: "state" }, mark("rejects"), number(rejects))] : null,
    ["bytes", bytes(total("bytes"))
      + (rowsOut ? `, ${bytes(total("bytes") / rowsOut)} a row` : "")],
    total("stored_bytes") ? ["stored", `${bytes(total("stored_bytes"))}, written in `
      + seconds(total("writing_seconds"))] : null,
    ["calls", number(total("calls"))],
  ]));
}

function describeChange(change) {
  const facts = change.facts.map(({ what, was, now }) => [visible(what),
    make("del", {}, visible(was) || "nothing"), " → ", make("ins", {}, visible(now) || "nothing")]);
  const size = [
    change.rows === null ? null : count(change.rows, "row"),
    change.bytes === null ? null : `about ${bytes(change.bytes)}`,
  ].filter((text) => text !== null).join(", ");
  return make("div", {},
    make("p", { class: "state" }, mark(change.kind), KINDS[change.kind]),
    facts.length ? describeTable(facts) : null,
    change.rebuilds ? make("p", { class: "rebuild" }, `A build computes it anew${size && `: ${size}`}.`)
      : null);
}

const KINDS = {
  added: "added",
  removed: "removed",
  changed: "changed",
  follows: "follows: it is as it was, and reads what changed",
  moved: "moved: the same work at another address",
  same: "as it was",
};

// Commands that can be pasted into a shell, or into Python. What holds a control character cannot.
function describeCommands(node) {
  const task = node.address.split(/[./]/)[0];
  const isTask = view.instructions.some(({ label }) => label.replace(/:\d+$/, "") === task);
  const project = view.project ? quote(view.project) : "PROJECT";
  const source = node.rows ? JSON.stringify(node.rows) : "source";
  const commands = [
    isTask ? `taskloom peek ${project} ${quote(task)} --row 0 --at ${quote(node.address)}` : null,
    isTask && node.state ? `taskloom why ${project} ${quote(task)}` : null,
    `plan[${JSON.stringify(node.address)}].head(${source}, 3)`,
  ].filter((command) => command !== null && visible(command) === command);
  return commands.map((command) => make("div", { class: "command" },
    make("code", {}, command), copyButton("command", command)));
}

function quote(word) {
  return /^[\w./:@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function describePreview(preview) {
  return make("figure", {},
    make("figcaption", {}, `row ${visible(preview.row)}`),
    preview.image ? showImage(preview) : null,
    preview.waveform ? showWaveform(preview.waveform) : null,
    preview.tokens ? showTokens(preview.tokens) : null,
    make("p", { class: preview.kind === "missing" ? "soft" : "value" }, visible(preview.text)));
}

function showImage(preview) {
  // Anything but a picture in the page itself is refused, as the policy of the page does.
  if (!/^data:image\/(png|jpeg|webp|gif);base64,/.test(preview.image)) return null;
  return make("img", { src: preview.image, alt: visible(preview.text) });
}

function showWaveform(points) {
  const step = 300 / Math.max(points.length - 1, 1);
  const path = points.map((y, x) => `${x ? "L" : "M"}${(x * step).toFixed(1)} ${(32 - 30 * y).toFixed(1)}`);
  return draw("svg", { class: "waveform", viewBox: "0 0 300 64", role: "img", "aria-label": "waveform" },
    draw("path", { class: "axis", d: "M0 32H300" }), draw("path", { d: path.join("") }));
}

// Tokens, darker the more they weigh in the loss; what is only read stays plain.
function showTokens(tokens) {
  return make("div", { class: "tokens" }, tokens.map(({ id, text, weight }) => {
    const level = weight > 0 ? Math.min(Math.max(Math.ceil(weight * 4), 1), 4) : 0;
    return make("span", { class: `token w${level}`, title: `id ${id}, loss weight ${weight}` },
      visible(text) || String(id));
  }));
}
