// The canvas: one picture at a time, moved by its view box.

const frame = document.getElementById("canvas");
const pictures = [...frame.querySelectorAll(".picture")];
const MIN_SCALE = 0.02;
const MAX_SCALE = 3;
const READABLE = 0.66;
let picture = null; // { svg, boxes, edges, width, height, bottom, heads, bands }
let eye = { x: 0, y: 0, scale: 1 };

function showPicture(svg) {
  for (const box of picture?.boxes ?? []) if (box.list) closeBox(box);
  if (picture) arrange();
  for (const other of pictures) other.toggleAttribute("hidden", other !== svg);
  svg.dataset.size ??= svg.getAttribute("viewBox");
  const [, , width, height] = svg.dataset.size.split(" ").map(Number);
  const boxes = [...svg.querySelectorAll(".box")].map(readBox);
  const edges = [...svg.querySelectorAll(".edge")].map((element) => {
    const [maker, user] = element.dataset.ends.split(" ").map(Number);
    element.dataset.route ??= element.getAttribute("d");
    return { element, maker, user, route: element.dataset.route };
  });
  const heads = [...svg.querySelectorAll(".head")].map((element) => {
    element.dataset.top ??= element.getAttribute("transform").match(/ ([-\d.]+)\)/)[1];
    return { element, start: Number(element.dataset.top), top: Number(element.dataset.top) };
  });
  const bands = [...svg.querySelectorAll(".band")].map((element) => {
    element.dataset.top ??= element.getAttribute("y");
    element.dataset.bottom ??= Number(element.dataset.top) + Number(element.getAttribute("height"));
    return { element, top: Number(element.dataset.top), bottom: Number(element.dataset.bottom) };
  });
  picture = { svg, boxes, edges, width, height, bottom: height, heads, bands };
  boxes[0]?.element.setAttribute("tabindex", "0");
  fit(false);
}

function readBox(element, number) {
  element.dataset.corner ??= element.getAttribute("transform").match(/[-\d.]+/g).join(" ");
  const [left, top] = element.dataset.corner.split(" ").map(Number);
  const card = element.querySelector(".card");
  card.dataset.height ??= card.getAttribute("height");
  const [width, height] = [Number(card.getAttribute("width")), Number(card.dataset.height)];
  return {
    element, number, left, top, width, height, x: left + width / 2, y: top + height / 2,
    members: element.dataset.members.split(" ").map(Number),
    ops: Number(element.dataset.ops ?? 1),
    foot: Number(element.dataset.foot), isFolded: element.hasAttribute("aria-expanded"),
    list: null, grown: 0,
  };
}

// Shows everything; at the start no smaller than can be read, from the top.
function fit(isWhole) {
  const { clientWidth, clientHeight } = frame;
  const whole = Math.min(clientWidth / picture.width, clientHeight / picture.height, 1.25);
  const wide = Math.min(clientWidth / picture.width, 1);
  const scale = isWhole ? whole : Math.max(whole, wide, READABLE);
  const middle = (picture.width - clientWidth / scale) / 2;
  const isTall = clientHeight / scale < picture.height;
  look(middle, isTall ? 0 : (picture.height - clientHeight / scale) / 2, scale);
}

function look(x, y, scale) {
  eye = { x, y, scale };
  const { clientWidth, clientHeight } = frame;
  const size = [clientWidth / scale, clientHeight / scale];
  picture.svg.setAttribute("viewBox", `${x} ${y} ${size[0]} ${size[1]}`);
  for (const { element, top } of picture.heads) {
    // Names of lanes stay at the left edge, in the size of the page's own text.
    const zoom = Math.min(1 / scale, 2);
    element.setAttribute("transform", `translate(${x} ${top})`);
    element.firstElementChild.setAttribute("transform", `scale(${zoom})`);
  }
}

function zoom(factor, clientX, clientY) {
  const area = frame.getBoundingClientRect();
  const x = (clientX ?? area.left + area.width / 2) - area.left;
  const y = (clientY ?? area.top + area.height / 2) - area.top;
  const scale = Math.min(MAX_SCALE, Math.max(MIN_SCALE, eye.scale * factor));
  look(eye.x + x / eye.scale - x / scale, eye.y + y / eye.scale - y / scale, scale);
}

// Moves just so far that `box` is well inside the canvas.
function reveal(box) {
  const [width, height] = [frame.clientWidth / eye.scale, frame.clientHeight / eye.scale];
  const keep = (start, length, place, margin) => {
    const room = Math.min(margin, length / 2);
    return Math.min(Math.max(start, place + room - length), place - room);
  };
  look(keep(eye.x, width, box.x, 180), keep(eye.y, height, box.y, 110), eye.scale);
}

// Returns the nearest box in a direction, sideways distance counting double.
function neighbour(box, dx, dy) {
  let nearest = null;
  let least = Infinity;
  for (const other of picture.boxes) {
    const [x, y] = [other.x - box.x, other.y - box.y];
    const ahead = x * dx + y * dy;
    const aside = Math.abs(x * dy) + Math.abs(y * dx);
    const distance = ahead + 2 * aside;
    if (ahead > 20 && (dy ? true : aside < 60) && distance < least) {
      [nearest, least] = [other, distance];
    }
  }
  return nearest;
}

function watchPointer() {
  const fingers = new Map();
  let moved = 0;
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const step = event.deltaMode === 1 ? 16 : 1;
    if (event.shiftKey) look(eye.x + (event.deltaY * step) / eye.scale, eye.y, eye.scale);
    else zoom(Math.exp(-event.deltaY * step * 0.0016), event.clientX, event.clientY);
  }, { passive: false });
  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (!fingers.size) moved = 0;
    fingers.set(event.pointerId, event);
  });
  frame.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last) return;
    const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
    moved += Math.abs(dx) + Math.abs(dy);
    if (moved > 4 && !frame.hasPointerCapture(event.pointerId)) {
      frame.setPointerCapture(event.pointerId);
      picture.svg.classList.add("panning");
    }
    const share = 1 / fingers.size;
    look(eye.x - (dx * share) / eye.scale, eye.y - (dy * share) / eye.scale, eye.scale);
    if (fingers.size === 2) {
      const [other] = [...fingers.values()].filter((one) => one.pointerId !== event.pointerId);
      const span = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      zoom(span(event) / Math.max(span(last), 1), other.clientX, other.clientY);
    }
    fingers.set(event.pointerId, event);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    frame.addEventListener(kind, (event) => {
      fingers.delete(event.pointerId);
      picture.svg.classList.remove("panning");
    });
  }
  return () => moved > 4;
}
