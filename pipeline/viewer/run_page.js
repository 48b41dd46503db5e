// Reads charts out: what every series is at the step that the pointer is at.
const readout = document.getElementById("readout");

function element(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][1] < x) low = middle; else high = middle;
  }
  return Math.abs(points[low][1] - x) <= Math.abs(points[high][1] - x) ? points[low] : points[high];
}

function show(chart, series, x, clientX, clientY) {
  chart.querySelectorAll(".hair, .pick").forEach((one) => one.remove());
  const steps = series.map((one) => nearest(one.at, x));
  const at = steps.reduce((a, b) => (Math.abs(a[1] - x) <= Math.abs(b[1] - x) ? a : b));
  chart.append(element("path", { class: "hair", d: `M${at[1]} ${chart.dataset.top}V${chart.dataset.foot}` }));
  readout.replaceChildren();
  const head = document.createElement("div");
  head.textContent = `step ${at[0].toLocaleString("en")}`;
  readout.append(head);
  series.forEach((one, number) => {
    const [, px, py, text] = steps[number];
    if (Math.abs(px - at[1]) > 12) return;
    chart.append(element("circle", { class: `pick ${one.kind}`, cx: px, cy: py, r: 3.5 }));
    const row = document.createElement("div");
    const name = document.createElement("span");
    const key = document.createElement("i");
    key.className = `key ${one.kind}`;
    name.append(key, one.name);
    const value = document.createElement("b");
    value.textContent = text;
    row.append(name, value);
    readout.append(row);
  });
  readout.hidden = false;
  const box = readout.getBoundingClientRect();
  const left = clientX + 16 + box.width > innerWidth ? clientX - 16 - box.width : clientX + 16;
  readout.style.left = `${Math.max(4, left)}px`;
  readout.style.top = `${Math.min(innerHeight - box.height - 4, Math.max(4, clientY - box.height / 2))}px`;
}

function hide(chart) {
  chart.querySelectorAll(".hair, .pick").forEach((one) => one.remove());
  readout.hidden = true;
}

for (const chart of document.querySelectorAll(".chart")) {
  const series = JSON.parse(chart.dataset.series);
  const every = [...new Set(series.flatMap((one) => one.at.map((point) => point[1])))].sort((a, b) => a - b);
  let place = 0;
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    show(chart, series, (event.clientX - box.left) * chart.viewBox.baseVal.width / box.width, event.clientX, event.clientY);
  });
  chart.addEventListener("pointerleave", () => hide(chart));
  chart.addEventListener("blur", () => hide(chart));
  chart.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key === "Escape") return hide(chart);
    if (!(event.key in moves)) return;
    event.preventDefault();
    place = Math.min(every.length - 1, Math.max(0, place + moves[event.key]));
    const box = chart.getBoundingClientRect();
    const x = box.left + every[place] * box.width / chart.viewBox.baseVal.width;
    show(chart, series, every[place], x, box.top + box.height / 2);
  });
}
