// Choosing: what is chosen, by pointer, key, search or address, and what is lit for it.

const chosen = { node: null, box: null, instruction: null };
const search = document.getElementById("search");
const found = document.getElementById("found");
const foldButton = document.getElementById("fold");
let hits = [];
// How many changes of the address are our own, and still to be told of.
let ownChanges = 0;

function chooseNode(number, members = null, isQuiet = false) {
  const box = boxOf(number);
  Object.assign(chosen, { node: number, box, instruction: null });
  showNode(number, members ?? (box.members.length > 1 ? box.members : [number]));
  lightAround([number]);
  reveal(box);
  if (!isQuiet) changeAddress(encodeURIComponent(nodes[number].address));
}

function chooseBox(members) {
  if (members.length === 1) return chooseNode(members[0]);
  Object.assign(chosen, { node: null, box: boxOf(members[0]), instruction: null });
  showBox(members);
  lightAround(members);
}

function chooseInstruction(number) {
  if (chosen.instruction === number) return clear();
  Object.assign(chosen, { node: null, box: null, instruction: number });
  const lit = new Set();
  nodes.forEach((node, place) => {
    if (node.sites.some((site) => site.instruction === number)) lit.add(place);
  });
  showGraph();
  paint(lit, lit);
}

function clear() {
  Object.assign(chosen, { node: null, box: null, instruction: null });
  showGraph();
  paint(null);
  changeAddress("");
}

function changeAddress(hash) {
  const before = location.href;
  location.replace(`#${hash}`);
  if (location.href !== before) ownChanges += 1;
}

function boxOf(number) {
  return picture.boxes.find((box) => box.members.includes(number));
}

// Lights what `starts` are made of, and what is made of them.
function lightAround(starts) {
  paint(reach(starts, makers, "maker"), reach(starts, users, "user"));
}

// Lights the boxes of two sets of nodes, and the edges inside each; with no set, everything is plain.
function paint(...sets) {
  const isPlain = sets[0] === null;
  picture.svg.classList.toggle("dimmed", !isPlain);
  const lit = isPlain ? [] : sets.map((set) => new Set(
    picture.boxes.filter((box) => box.members.some((n) => set.has(n))).map((box) => box.number)));
  for (const box of picture.boxes) {
    box.element.classList.toggle("lit", lit.some((set) => set.has(box.number)));
    box.element.classList.toggle("chosen", box === chosen.box);
    box.element.setAttribute("aria-pressed", String(box === chosen.box));
  }
  for (const row of picture.svg.querySelectorAll(".member")) {
    row.classList.toggle("chosen", chosen.node !== null && Number(row.dataset.node) === chosen.node);
  }
  for (const { element, maker, user } of picture.edges) {
    element.classList.toggle("lit", lit.some((set) => set.has(maker) && set.has(user)));
  }
}

function find() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (number) => words.every((word) => haystack(number).includes(word));
  hits = words.length ? picture.boxes.filter((box) => box.members.some(fits)) : [];
  for (const box of picture.boxes) box.element.classList.toggle("hit", hits.includes(box));
  found.textContent = words.length ? count(hits.length, "hit") : "";
}

function openNextHit(step) {
  if (!hits.length) return;
  const place = hits.indexOf(chosen.box);
  const box = hits[(place + step + hits.length + (place < 0 && step < 0 ? 1 : 0)) % hits.length];
  reveal(box);
  chooseBox(box.members);
}

function focus(box) {
  if (!box) return;
  for (const other of picture.boxes) other.element.setAttribute("tabindex", "-1");
  box.element.setAttribute("tabindex", "0");
  box.element.focus({ preventScroll: true });
  reveal(box);
}

function switchPicture() {
  const other = pictures.find((svg) => svg !== picture.svg);
  const node = chosen.node ?? chosen.box?.members[0] ?? null;
  showPicture(other);
  nameFold();
  find();
  if (node === null) clear();
  else chooseNode(node);
}

function nameFold() {
  foldButton.hidden = pictures.length < 2;
  foldButton.textContent = picture.svg.id === "folded"
    ? `Show all ${count(nodes.length, "node")}` : "Fold like parts";
}

function chooseByHash() {
  let address = location.hash.slice(1);
  try {
    address = decodeURIComponent(address);
  } catch {
    // A lone per cent sign: the address as it stands is the best guess.
  }
  // Nodes may share an address; one that is chosen already stays.
  if (chosen.node !== null && nodes[chosen.node].address === address) return;
  const number = byAddress.get(address);
  if (number !== undefined) chooseNode(number, null, true);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    search.value = "";
    find();
    for (const box of picture.boxes) if (box.list) closeBox(box);
    arrange();
    clear();
  } else if (event.target === search) {
    if (event.key === "Enter") openNextHit(event.shiftKey ? -1 : 1);
  } else if (event.key === "/") {
    event.preventDefault();
    search.focus();
  } else if (event.key === "+" || event.key === "=") zoom(1.25);
  else if (event.key === "-") zoom(0.8);
  else if (event.key === "0") fit(true);
  else pressBox(event);
}

function pressBox(event) {
  const element = event.target.closest?.(".box");
  const box = picture.boxes.find((one) => one.element === element);
  if (!box) return;
  const member = event.target.closest(".member");
  const isPress = event.key === "Enter" || event.key === " ";
  if (event.key in ARROWS) {
    if (!stepThrough(box, member, event.key)) focus(neighbour(box, ...ARROWS[event.key]));
  } else if (isPress && member) useMember(box, member);
  else if (isPress) useBox(box);
  else return;
  event.preventDefault();
}

// Moves the focus through the members of an open box; says whether there was one to go to.
function stepThrough(box, member, key) {
  const rows = [...(box.list?.querySelectorAll(".member") ?? [])];
  const place = rows.indexOf(member);
  const step = { ArrowDown: 1, ArrowUp: -1 }[key];
  if (!step || (place < 0 && step < 0)) return false;
  const next = place + step;
  if (next >= rows.length) return false;
  if (next < 0) focus(box);
  else rows[next].focus({ preventScroll: true });
  return true;
}

// Chooses a box and opens it; one that is chosen already is opened or closed.
function useBox(box) {
  if (!box.list || chosen.box === box) toggleBox(box);
  chooseBox(box.members);
}

function useMember(box, member) {
  if (member.dataset.node !== undefined) return chooseNode(Number(member.dataset.node), box.members);
  const side = member.querySelector("text").getAttribute("class");
  openBox(box, Number(member.dataset.start));
  arrange();
  [...box.list.querySelectorAll(".turn")].at(side === "end" ? -1 : 0).focus({ preventScroll: true });
}

function start() {
  const hasMoved = watchPointer();
  frame.addEventListener("click", (event) => {
    if (hasMoved()) return;
    const element = event.target.closest(".box");
    const box = picture.boxes.find((one) => one.element === element);
    if (!box) return clear();
    const member = event.target.closest(".member");
    if (member) return useMember(box, member);
    focus(box);
    useBox(box);
  });
  document.addEventListener("keydown", pressKey);
  search.addEventListener("input", find);
  foldButton.addEventListener("click", switchPicture);
  document.getElementById("in").addEventListener("click", () => zoom(1.25));
  document.getElementById("out").addEventListener("click", () => zoom(0.8));
  document.getElementById("fit").addEventListener("click", () => fit(true));
  window.addEventListener("resize", () => look(eye.x, eye.y, eye.scale));
  window.addEventListener("hashchange", () => {
    // What was chosen since must not give way to it: it is told of late.
    if (ownChanges) ownChanges -= 1;
    else chooseByHash();
  });
  showPicture(pictures[0]);
  nameFold();
  showGraph();
  chooseByHash();
}

start();
