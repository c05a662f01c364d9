// Keys, drafts and the outbox. Without it the page is plain forms. An answer stays in the outbox until it is committed.
const main = document.getElementById("main");
const status = document.getElementById("status");
const person = document.body.dataset.person;
const OUTBOX = `outbox-${person}`, DRAFT = `draft-${person}`;
let sending = false;

const load = (name) => JSON.parse(localStorage.getItem(name) || "null");
const save = (name, value) => localStorage.setItem(name, JSON.stringify(value));
const form = () => document.getElementById("judge");
const outbox = () => load(OUTBOX) || [];

function show() {
  const left = outbox().length;
  status.textContent = left ? document.body.dataset.waiting.replace("{n}", left) : status.textContent;
}

async function send(kept) {
  const body = new URLSearchParams(kept);
  body.set("csrf", document.querySelector("input[name=csrf]").value); // of this session; it may be a later one
  const answer = await fetch("/judge", {
    method: "POST", body, headers: { "content-type": "application/x-www-form-urlencoded", "x-part": "1" },
  });
  const page = await answer.text();
  if ([401, 403, 507].includes(answer.status)) throw page; // signed out, paused, a full disk: the server says so
  if (answer.status >= 500) throw ""; // later
  return { ok: answer.ok, page };
}

async function flush() {
  if (sending) return;
  sending = true;
  try {
    for (let left = outbox(); left.length; left = outbox()) {
      const { ok, page } = await send(left[0]);
      save(OUTBOX, outbox().filter((one) => one !== left[0])); // another tab may have added and sent others
      if (!ok) { status.textContent = page; continue; }
      status.textContent = "✓ " + document.body.dataset.saved;
      if (!outbox().length) replace(page);
    }
  } catch (error) {
    show();
    if (typeof error === "string" && error) status.textContent = error;
    setTimeout(flush, 3000);
  } finally {
    sending = false;
  }
}

function replace(page) {
  if (location.pathname !== "/") { location.href = "/"; return; }
  main.innerHTML = page; // made by the server, as the page that was loaded
  reach();
  localStorage.removeItem(DRAFT);
  main.querySelector("h1")?.scrollIntoView();
}

function reach() { // a formula that is wider than the screen is scrolled without a mouse too
  for (const one of main.querySelectorAll("section, article")) if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
}

function submit(event) {
  if (event.target.id !== "judge") return;
  event.preventDefault();
  const fields = new FormData(event.target, event.submitter);
  if (fields.get("act") === "flagged" && !fields.get("reason")) { document.getElementById("reason").focus(); return; }
  for (const button of event.target.querySelectorAll("button")) button.disabled = true;
  save(OUTBOX, [...outbox(), new URLSearchParams(fields).toString()]);
  flush();
}

const KEYS = {
  pair: (n, shift, press) => press(`button[name=choice][value="${shift && n ? -n : n}"]`),
  ranking: (n, shift, press) => {
    const places = [...form().querySelectorAll(".places")];
    const next = places.filter((one) => one.querySelector(":checked")).length + 1;
    if (places[n - 1]?.querySelector(":checked")) for (const one of form().querySelectorAll(".places :checked")) one.checked = false;
    else press(`input[name=place_${n - 1}][value="${next}"]`);
  },
  rating: (n, shift, press) => {
    const open = [...form().querySelectorAll("fieldset")].find((one) => one.querySelector("[required]") && !one.querySelector(":checked"));
    const button = open?.querySelector(`input[value="${n}"]`);
    if (button) button.click();
  },
};

function key(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat) return;
  if (/^(textarea|select)$/i.test(event.target.tagName) || !form()) return;
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  const press = (selector) => form().querySelector(selector)?.click();
  if (digit) KEYS[form().dataset.kind](Number(digit[1]), event.shiftKey, press);
  else if (event.key === "Enter" && event.target === document.body) press(".confirm, button[value=answered]");
  else if (event.key === "s") press("button[value=skipped]");
  else if (event.key === "u") location.href = "/again/last";
  else return;
  event.preventDefault();
}

function draft(event) {
  if (form()?.contains(event.target)) {
    const fields = Object.fromEntries(new FormData(form()));
    save(DRAFT, fields);
  }
}

function restore() {
  const kept = load(DRAFT);
  if (!kept || !form() || kept.token !== form().elements.token.value) return;
  for (const [name, value] of Object.entries(kept)) {
    const field = form().elements[name];
    if (field && !["csrf", "token", "key"].includes(name)) field.value = value;
  }
}

if (person) {
  document.addEventListener("submit", submit);
  document.addEventListener("keydown", key);
  document.addEventListener("input", draft);
  addEventListener("online", flush);
  addEventListener("resize", reach);
  reach();
  restore();
  flush();
}
