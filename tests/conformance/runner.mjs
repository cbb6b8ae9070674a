// Follows by resume.js as each line of its input says; prints what an application would see as lines of JSON.
import { createInterface } from "node:readline";

import { follow } from "../../app/dashboard/static/resume.js";

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");

async function follows(url, wanted, options, count) {
  // An application that is busy with its first item until the connection after the first is up.
  let connections = 0;
  let resumed;
  const secondConnection = new Promise((resolve) => (resumed = resolve));
  const store = {
    load: () => options.stored,
    save: async (cursor) => {
      if (options.busy) await secondConnection;
      if ("stored" in options) print({ saved: cursor });
    },
  };
  const onState = (state) => {
    print({ state });
    if (state.state === "replaying") connections += 1;
    if (connections === 2) resumed();
  };
  let left = count ?? Infinity;
  for await (const item of follow(url, wanted, { ...options, store, onState, random: () => options.chance })) {
    print({ item });
    left -= 1;
    if (left === 0) return;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { url, wanted, options, obey, count } = JSON.parse(line);
  try {
    await follows(url, wanted, options, count);
  } catch ({ code, message, resume, ...facts }) {
    const { closeCode, orderId, expected, seq, advice } = facts;
    print({ error: { code, message, closeCode, orderId, expected, seq, advice } });
    if (obey) await follows(url, { ...wanted, ...resume }, options, count);
  }
  print({ end: true });
}
