// Histograms of bursts, and the flame graph of stacks.

const BUCKETS = 28;

function svg(tag, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Bursts of a lane, counted by powers of two microseconds: for profiles whose threads have not been counted. */
function countBursts(spans, cpu) {
  const buckets = new Array(BUCKETS).fill(0);
  let current = 0;
  const close = () => {
    if (current) buckets[Math.min(BUCKETS - 1, Math.max(0, Math.floor(Math.log2(current * about.tick * 1e6))))]++;
    current = 0;
  };
  for (let i = 0; i < spans.count; i++) {
    const state = spans.kind[i];
    if (cpu ? state <= 1 : state === 5) current += spans.length[i];
    else if (!cpu || state !== 2) close();
  }
  close();
  return buckets;
}

/** The bursts of some threads: buckets, and their quantiles where it is one thread. */
function burstsOf(threads, which, timeline) {
  const buckets = new Array(BUCKETS).fill(0);
  for (const index of threads) {
    const own = profile.threads[index][which].buckets;
    const lane = own ? null : timeline?.threads.find((row) => row.index === index);
    (own ?? (lane ? countBursts(lane.spans, which === "cpu_bursts") : [])).forEach((count, i) => { buckets[Math.min(i, BUCKETS - 1)] += count; });
  }
  const records = threads.map((index) => profile.threads[index][which]);
  return { buckets, count: records.reduce((sum, each) => sum + each.count, 0), max: Math.max(0, ...records.map((each) => each.max)), one: records.length === 1 ? records[0] : null };
}

function histogram(holder, { buckets, count, max, one }, kind) {
  if (!buckets.some(Boolean)) {
    holder.replaceChildren(make("p", { class: "lead" }, count ? "Only their sums are known." : "None."));
    return;
  }
  const switches = profile.switch_interval > 0;
  const interval = Math.log2((profile.switch_interval || 0.005) * 1e6);
  const used = buckets.flatMap((each, i) => (each ? [i] : []));
  const low = Math.max(0, Math.min(used[0], Math.floor(interval)) - 1), high = Math.min(BUCKETS, Math.max(used.at(-1), Math.ceil(interval)) + 2);
  const W = 560, H = 210, left = 44, right = 8, top = 26, bottom = 30;
  const x = (power) => left + ((power - low) / (high - low)) * (W - left - right);
  const most = Math.max(...buckets), nice = niceAbove(most);
  const y = (value) => H - bottom - (value / nice) * (H - top - bottom);
  const sum = buckets.reduce((a, b) => a + b, 0);
  const span = (i) => `${seconds(2 ** i * 1e-6)} to ${seconds(2 ** (i + 1) * 1e-6)}`;
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${sum} bursts, most of them of ${span(buckets.indexOf(most))}.` });
  for (const value of [0, nice / 2, nice]) {
    chart.append(svg("line", { class: "axis", x1: left, x2: W - right, y1: y(value), y2: y(value) }));
    if (Number.isInteger(value)) chart.append(svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, whole(value)));
  }
  for (const i of used) {
    if (i < low || i >= high) continue;
    const height = Math.max(2, H - bottom - y(buckets[i]));
    const bar = svg("rect", { class: kind, x: x(i) + 1, width: x(i + 1) - x(i) - 2, y: H - bottom - height, height });
    bar.append(svg("title", {}, `${span(i)}: ${whole(buckets[i])} bursts, ${percent(buckets[i] / sum)}`));
    chart.append(bar);
  }
  for (let exponent = 0; exponent <= 8; exponent++) {
    const at = Math.log2(10 ** exponent);
    if (at < low || at > high) continue;
    chart.append(svg("line", { class: "axis", x1: x(at), x2: x(at), y1: H - bottom, y2: H - bottom + 5 }));
    chart.append(svg("text", { x: x(at), y: H - bottom + 19, "text-anchor": at - low < 0.5 ? "start" : high - at < 1 ? "end" : "middle" }, ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"][exponent]));
  }
  const end = x(interval) > W - 130;
  if (switches) chart.append(svg("line", { class: "mark", x1: x(interval), x2: x(interval), y1: top - 14, y2: H - bottom }));
  if (switches) chart.append(svg("text", { class: "mark-text", x: x(interval) + (end ? -6 : 6), y: top - 8, "text-anchor": end ? "end" : "start" }, `switch interval, ${seconds(profile.switch_interval).replace(/\.0+ /, " ")}`));
  const facts = one ? [["half below", one.p50], ["90% below", one.p90], ["99% below", one.p99], ["longest", one.max]] : [["longest", max]];
  const line = make("p", { class: "quantiles" }, `${many(count || sum, "burst")}; `);
  facts.forEach(([name, value], i) => line.append(i ? ", " : "", `${name} `, make("b", {}, seconds(value))));
  holder.replaceChildren(chart, line);
}

function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return Math.max(2, [1, 2, 4, 6, 8, 10].find((each) => each * power >= value) * power);
}

/** A choice of one thread or all of them. */
function threadChoice(select, changed) {
  select.append(make("option", { value: -1 }, "all threads"));
  profile.threads.forEach((each, index) => select.append(make("option", { value: index }, `${plain(each.name).slice(0, 60) || "thread"} (${each.tid})`)));
  const all = profile.threads.map((_, index) => index);
  const change = () => changed(Number(select.value) < 0 ? all : [Number(select.value)]);
  select.addEventListener("change", change);
  change();
}

/** Stacks as boxes: callers above, what they call below, as wide as the time that they stand for. */
class Flame {
  constructor(columns) {
    this.columns = columns;
    this.holder = read("flame-graph");
    read("flame-all").addEventListener("click", () => this.show(this.root));
  }

  /** Merges all stacks of these threads by function. */
  merge(threads) {
    const { sampleThread, sampleFrame, sampleWeight, frameFunction, frameCaller } = this.columns;
    const wanted = new Uint8Array(profile.threads.length);
    for (const index of threads) wanted[index] = 1;
    const own = new Float64Array(frameFunction.length);
    for (let i = 0; i < sampleFrame.length; i++) if (wanted[sampleThread[i]] && sampleFrame[i] >= 0) own[sampleFrame[i]] += sampleWeight[i];
    this.root = { name: "all", own: 0, total: 0, children: new Map(), depth: -1, parent: null };
    const nodes = new Array(frameFunction.length);
    const node = (frame) => {
      const chain = [];
      while (frame >= 0 && !nodes[frame]) { chain.push(frame); frame = frameCaller[frame]; }
      let at = frame >= 0 ? nodes[frame] : this.root;
      for (const each of chain.reverse()) {
        const key = frameFunction[each];
        if (!at.children.has(key)) at.children.set(key, { record: profile.functions[key], own: 0, total: 0, children: new Map(), depth: at.depth + 1, parent: at });
        at = nodes[each] = at.children.get(key);
      }
      return at;
    };
    own.forEach((weight, frame) => {
      if (!weight) return;
      let at = node(frame);
      at.own += weight;
      for (; at; at = at.parent) at.total += weight;
    });
    this.show(this.root);
  }

  name(node) {
    return node.record ? plain(node.record.function) : "all";
  }

  show(node) {
    read("flame-all").hidden = node === this.root;
    const boxes = [];
    let deepest = 0;
    const add = (each, left, width) => {
      if (width < 0.0015 || each.depth > 200) return;
      const row = each.depth - Math.max(0, node.depth);
      deepest = Math.max(deepest, row);
      if (each.depth >= 0) {
        const text = this.name(each);
        const label = `${text}, ${seconds(each.total)}, ${percent(each.total / this.root.total)} of all, ${seconds(each.own)} in itself`;
        boxes.push(make("button", {
          type: "button", "aria-label": label, style: { left: `${left * 100}%`, width: `calc(${width * 100}% - 1px)`, top: `${row * 22}px`, "--own": each.own / each.total },
          onclick: () => { this.show(each); this.holder.querySelector("button")?.focus(); }, onpointerenter: () => this.tell(each), onfocus: () => this.tell(each),
        }, bdi(text.slice(0, 120))));
      }
      let x = left;
      for (const child of [...each.children.values()].sort((a, b) => b.total - a.total)) {
        const part = (child.total / each.total) * width;
        add(child, x, part);
        x += part;
      }
    };
    if (node.total) add(node, 0, 1);
    this.holder.style.height = `${Math.max(1, deepest + 1) * 22 + 1}px`;
    this.holder.replaceChildren(...(boxes.length ? boxes : [make("p", { class: "lead" }, " No stacks.")]));
    this.tell(node);
  }

  tell(node) {
    const line = read("flame-detail");
    if (!node.record) return line.replaceChildren("Point at a box to see what it is; click one to see it alone.");
    const { file, line: number } = node.record;
    line.replaceChildren(make("b", {}, bdi(this.name(node))), ` ${seconds(node.total)} (${percent(node.total / this.root.total)}), ${seconds(node.own)} of it in itself. `, bdi(`${file}:${number}`));
  }
}
