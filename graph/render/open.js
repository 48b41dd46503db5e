// Opening a box in place: it grows downwards by a list of its members, and everything below moves down by
// as much. Ranks stand on levels, so this needs no new layout.

const ROW_HEIGHT = 20;
const MAX_MEMBERS = 12;
const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function toggleBox(box) {
  if (!box.isFolded) return;
  if (box.list) closeBox(box);
  else openBox(box, 0);
  arrange();
}

function closeBox(box) {
  box.list.remove();
  Object.assign(box, { list: null, grown: 0 });
  box.element.setAttribute("aria-expanded", "false");
}

// Shows the members of `box` from number `start` on.
function openBox(box, start) {
  box.list?.remove();
  const members = box.members.slice(start, start + MAX_MEMBERS);
  const isPaged = box.members.length > MAX_MEMBERS;
  const rows = members.map((number, place) => drawMember(box, number, place));
  if (isPaged) rows.push(drawPager(box, start, MAX_MEMBERS));
  box.list = draw("g", { class: "members", transform: `translate(0 ${box.height})` },
    draw("path", { class: "rule", d: `M16 -.5H${box.width - 16}` }), ...rows);
  box.grown = (isPaged ? MAX_MEMBERS + 1 : members.length) * ROW_HEIGHT + 12;
  box.element.append(box.list);
  box.element.setAttribute("aria-expanded", "true");
}

function drawMember(box, number, place) {
  const node = nodes[number];
  const word = node.change && node.change.kind !== "same" ? node.change.kind : node.state?.status;
  const time = node.measure ? seconds(node.measure.seconds) : "";
  const room = Math.floor((box.width - 40 - (word ? 18 : 0)) / 6.3) - (time ? time.length + 1 : 0);
  const row = draw("g", { class: "member", role: "button", tabindex: "-1", "data-node": number,
    transform: `translate(0 ${6 + place * ROW_HEIGHT})` },
  draw("title", {}, visible(node.address)),
  draw("rect", { x: 8, y: 0, width: box.width - 16, height: ROW_HEIGHT, rx: 5 }),
  draw("text", { x: 16, y: 14 }, clip(visible(node.address), room)));
  if (time) row.append(draw("text", { class: "end", x: box.width - 16 - (word ? 18 : 0), y: 14 }, time));
  if (word) {
    const shape = document.querySelector(`.legend .mark.${word}`)?.cloneNode(true);
    shape?.setAttribute("transform", `translate(${box.width - 28} 4)`);
    if (shape) row.append(shape);
  }
  return row;
}

function drawPager(box, start, size) {
  const pages = draw("g", { class: "pager", transform: `translate(0 ${6 + size * ROW_HEIGHT})` });
  const last = Math.min(start + size, box.members.length);
  const button = (text, x, to, anchor) => {
    const isThere = to >= 0 && to < box.members.length;
    const element = draw("g", { class: isThere ? "member turn" : "member turn off", role: "button",
      tabindex: "-1", "data-start": isThere ? to : start },
    draw("rect", { x: anchor === "end" ? x - 64 : x - 8, y: 0, width: 72, height: ROW_HEIGHT, rx: 5 }),
    draw("text", { x, y: 14, class: anchor }, text));
    return element;
  };
  pages.append(
    button("‹ back", 16, start - size, "begin"),
    draw("text", { x: box.width / 2, y: 14, class: "middle" },
      `${start + 1}–${last} of ${box.members.length.toLocaleString("en")}`),
    button("more ›", box.width - 16, start + size, "end"));
  return pages;
}

// Puts everything where the open boxes leave room: each level moves by what the levels above have grown.
function arrange() {
  const grown = new Map();
  for (const box of picture.boxes) {
    if (box.grown) grown.set(box.foot, Math.max(grown.get(box.foot) ?? 0, box.grown));
  }
  const levels = [...grown].sort((a, b) => a[0] - b[0]);
  const move = (y) => levels.reduce((sum, [foot, by]) => (y > foot - 0.06 ? sum + by : sum), y);
  for (const box of picture.boxes) {
    const top = move(box.top);
    box.element.setAttribute("transform", `translate(${box.left} ${top.toFixed(1)})`);
    box.y = top + (box.height + box.grown) / 2;
    for (const part of box.element.querySelectorAll(":scope > .card, :scope > .behind, :scope > .lane")) {
      part.dataset.height ??= part.getAttribute("height");
      part.setAttribute("height", Number(part.dataset.height) + box.grown);
    }
  }
  for (const edge of picture.edges) edge.element.setAttribute("d", moveRoute(edge.route, move));
  for (const band of picture.bands) {
    const [top, bottom] = [move(band.top), move(band.bottom)];
    band.element.setAttribute("y", top);
    band.element.setAttribute("height", bottom - top);
  }
  for (const head of picture.heads) head.top = move(head.start);
  picture.height = move(picture.bottom);
  look(eye.x, eye.y, eye.scale);
}

// Routes are absolute: M and L and C take pairs of x and y, V takes a y.
function moveRoute(route, move) {
  return route.replace(/([MLCV])([^MLCV]*)/g, (_, letter, rest) => {
    const numbers = rest.match(/-?[\d.]+/g).map(Number);
    const isY = (place) => letter === "V" || place % 2 === 1;
    return letter + numbers.map((n, place) => (isY(place) ? move(n) : n).toFixed(1)).join(" ");
  });
}
