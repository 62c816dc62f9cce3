// What both scripts need: arguments, comparison, and a contract that logs.

import assert from "node:assert/strict";

export function args() {
  const [url, key] = process.argv.slice(2);
  if (!url || !key) {
    console.error(`usage: node ${process.argv[1]} RPC_URL PRIVATE_KEY\nThe key's account must hold coins of the region.`);
    process.exit(2);
  }
  return { url, key: key.startsWith("0x") ? key : `0x${key}` };
}

/** Runs the named steps in order; the first that fails ends the process with its name. */
export async function run(library, steps) {
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
      console.log(`${library}: ${name}: ok`);
    } catch (error) {
      console.error(`${library}: ${name}: FAILED`);
      console.error(error);
      process.exit(1);
    }
  }
  console.log(`${library}: ${Object.keys(steps).length} passed, 0 failed`);
  process.exit(0); // Libraries keep timers and sockets.
}

/** A promise that must fail, and with what. */
export async function refused(promise, expected) {
  const error = await promise.then(() => assert.fail("should be refused"), (error) => error);
  assert.match(`${error.name} ${error.code} ${error.message}`, expected);
  return error;
}

/** Stores 42 in memory and logs it under topic 0xaa whenever it is called. */
export const LOGGER = {
  creation: "0x600d600c600039600d6000f3602a60005260aa60206000a100",
  runtime: "0x602a60005260aa60206000a100",
  topic: `0x${"aa".padStart(64, "0")}`,
  data: `0x${"2a".padStart(64, "0")}`,
};
