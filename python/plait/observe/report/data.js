// The profile out of the page, times and names in words, and spans of time that can be added up over any range.

const read = (id) => document.getElementById(id);
const { profile, columns: about, words } = JSON.parse(read("data").textContent);
const STATES = words.states.map((each) => each.name);

/** How long a record was in a state; that a thread stood still is told apart from its other waits for locks, which it is one of. */
function spent(record, name) {
  const stood = STATES.length > 8 ? record.stop_the_world ?? 0 : 0;
  return name === "lock_wait" ? Math.max(0, record.lock_wait - stood) : record[name] ?? 0;
}

/** The long columns, as views into one buffer. */
async function unpack() {
  const holder = read("columns");
  const text = atob(holder.textContent);
  let bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  if (holder.dataset.encoding === "deflate") {
    if (!("DecompressionStream" in window)) throw new Error("This browser cannot inflate (DecompressionStream): its timeline and stacks are left out.");
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  }
  holder.remove();
  let at = 0;
  const take = (Kind, count) => {
    const view = new Kind(bytes.buffer, at, count);
    at += view.byteLength;
    return view;
  };
  const { segments, held, samples, frames } = about;
  return {
    start: take(Uint32Array, segments), length: take(Uint32Array, segments), note: take(Int32Array, segments),
    heldFrom: take(Uint32Array, held), heldFor: take(Uint32Array, held), heldBy: take(Uint32Array, held),
    sampleThread: take(Uint32Array, samples), sampleAt: take(Uint32Array, samples),
    sampleFrame: take(Int32Array, samples), sampleWeight: take(Float32Array, samples),
    frameFunction: take(Uint32Array, frames), frameLine: take(Uint32Array, frames), frameCaller: take(Int32Array, frames),
    state: take(Uint8Array, segments),
  };
}

const HOLDERS = 8;
const KINDS = Math.max(HOLDERS, STATES.length);
const STRIDE = 16;

/**
 * Spans in order, each of one of some kinds: states, or holders of the GIL. Every sixteenth knows what all before it add up to, so the time of each kind in
 * any range costs two searches and at most thirty steps, however many spans lie in it.
 */
class Spans {
  constructor(start, length, kind) {
    Object.assign(this, { start, length, kind, count: start.length, sums: null });
  }

  end(i) {
    return this.start[i] + this.length[i];
  }

  /** The first span that ends after the time, searched for from span `low` on. */
  after(time, low = 0) {
    let high = this.count;
    for (let step = 1; low + step < high; step *= 2) {
      if (this.end(low + step) > time) { high = low + step + 1; break; }
      low += step;
    }
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.end(middle) > time) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  index() {
    const sums = new Float64Array((Math.floor(this.count / STRIDE) + 1) * KINDS);
    const now = new Float64Array(KINDS);
    for (let i = 0; i < this.count; i++) {
      if (i % STRIDE === 0) sums.set(now, (i / STRIDE) * KINDS);
      now[this.kind[i]] += this.length[i];
    }
    if (this.count % STRIDE === 0) sums.set(now, (this.count / STRIDE) * KINDS);
    this.sums = sums;
  }

  /** Adds to `out`, `sign` times, what all spans before number `i` add up to. */
  before(i, sign, out) {
    if (!this.sums) this.index();
    const block = Math.floor(i / STRIDE);
    for (let k = 0; k < KINDS; k++) out[k] += sign * this.sums[block * KINDS + k];
    for (let j = block * STRIDE; j < i; j++) out[this.kind[j]] += sign * this.length[j];
  }

  /**
   * The time of each kind between two times, into `out`. `first` is the first span that ends after `from`; gives back the same for `to`,
   * and sets `touched` to how many spans take part.
   */
  between(from, to, first, out) {
    out.fill(0);
    let i = first;
    const near = Math.min(this.count, first + 2 * STRIDE);
    while (i < near && this.end(i) <= to) {
      out[this.kind[i]] += this.length[i] - Math.max(0, from - this.start[i]);
      i++;
    }
    if (i === near && i < this.count && this.end(i) <= to) {
      i = this.after(to, i);
      out.fill(0);
      this.before(i, 1, out);
      this.before(first, -1, out);
      out[this.kind[first]] -= Math.max(0, from - this.start[first]);
    }
    this.touched = i - first;
    if (i < this.count && this.start[i] < to) {
      out[this.kind[i]] += to - Math.max(from, this.start[i]);
      this.touched++;
    }
    return i;
  }
}

function three(value) {
  const size = Math.abs(value);
  return size < 9.995 ? value.toFixed(2) : size < 99.95 ? value.toFixed(1) : value.toFixed(0);
}

/** A length of time: `1.23 s`, `45.1 ms`, `310 µs`. */
function seconds(value) {
  const size = Math.abs(value);
  if (size < 5e-10) return "0";
  if (size < 0.9995e-6) return three(value * 1e9) + " ns";
  if (size < 0.9995e-3) return three(value * 1e6) + " µs";
  if (size < 0.9995) return three(value * 1e3) + " ms";
  if (size < 600) return three(value) + " s";
  return size < 21600 ? (value / 60).toFixed(0) + " min" : (value / 3600).toFixed(1) + " h";
}

/** A point of time, as exactly as a step asks for, in the unit of the largest that it stands beside. */
function instant(time, step, largest) {
  const [scale, unit] = largest >= 1 ? [1, "s"] : largest >= 1e-3 ? [1e3, "ms"] : [1e6, "µs"];
  const digits = Math.min(9, Math.max(0, Math.ceil(-Math.log10(step * scale) - 1e-9)));
  return `${(time * scale).toFixed(digits)} ${unit}`;
}

function percent(part) {
  if (part > 0 && part < 0.001) return "<0.1%";
  return (part * 100).toFixed(Math.abs(part) < 0.0995 ? 1 : 0) + "%";
}

const whole = (number) => Math.round(number).toString().replace(/\B(?=(\d{3})+$)/g, "\u2009");

/** A name on one line, without what would turn the direction of what follows; in a page each is in a `bdi`, too. */
function plain(text) {
  return String(text).replace(/[\t\n\r]/g, " ").replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, "\ufffd")
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
}

const shortPath = (path) => plain(path).split("/").slice(-2).join("/");

/** An element with attributes and children; texts are only ever texts. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((each) => each !== null));
  return element;
}

const bdi = (text) => make("bdi", {}, plain(text));
const color = (state) => `var(--s${state})`;
const many = (count, what) => `${whole(count)} ${what}${count === 1 ? "" : "s"}`;
