// Runs the page's script without a browser: two answers wait, the network and the server fail, the person is signed out and
// paused, then all is well; another tab sends the first answer too.
const sent = [], stored = new Map([["outbox-7", JSON.stringify(["key=a&csrf=old", "key=b&csrf=old"])]]);
const answers = [() => { throw new Error("offline"); }, () => [500, "broken"], () => [401, "who?"], () => [403, "paused"],
  () => { stored.set("outbox-7", JSON.stringify(["key=b&csrf=old"])); return [200, "one"]; }, () => [200, "two"]];
const main = { querySelector: () => null, querySelectorAll: () => [] }, status = {};
globalThis.document = {
  getElementById: (name) => ({ main, status })[name] ?? null,
  querySelector: () => ({ value: "new" }),
  addEventListener: () => {},
  body: { dataset: { person: "7", waiting: "{n} wait", saved: "Saved" } },
};
globalThis.localStorage = {
  getItem: (name) => stored.get(name) ?? null, setItem: (name, value) => stored.set(name, value), removeItem: (name) => stored.delete(name),
};
globalThis.location = { pathname: "/" };
globalThis.addEventListener = () => {};
globalThis.setTimeout = (what) => queueMicrotask(what);
globalThis.fetch = async (where, { body }) => {
  const [code, text] = answers.shift()();
  if (code === 200) sent.push(String(body));
  return { status: code, ok: code === 200, text: async () => text };
};
await import(process.argv[2]);
for (let turn = 0; turn < 1000 && answers.length; turn++) await null;
for (let turn = 0; turn < 100; turn++) await null;
console.log(JSON.stringify({ sent, left: JSON.parse(stored.get("outbox-7")), page: main.innerHTML, said: status.textContent }));
