// The contracts' interfaces as their Solidity files say, in the human-readable form that viem and ethers parse.

import { readFileSync } from "node:fs";

const CONTRACTS = new URL("../../../../contracts/", import.meta.url);

// In lower case: viem checks the case of others as a checksum.
export const ADDRESSES = {
  ICharter: "0x000000000000000000000000000000000000a701",
  INodes: "0x000000000000000000000000000000000000a702",
  IDeployments: "0x000000000000000000000000000000000000a703",
};

/** Signatures of a contract's functions, events and errors; structs are written out, enums are their number. */
export function signatures(name, tuple = "tuple") {
  const source = readFileSync(new URL(`${name}.sol`, CONTRACTS), "utf8").replace(/\/\/.*$/gm, "");
  const types = new Map();
  for (const [, enumName] of source.matchAll(/enum\s+(\w+)\s*\{/g)) types.set(enumName, "uint8");
  const expand = (text) =>
    text.replace(/\b(\w+)\b/g, (word) => types.get(word) ?? word).replace(/\b(calldata|memory|storage)\b/g, "");
  for (const [, structName, body] of source.matchAll(/struct\s+(\w+)\s*\{([^}]*)\}/g)) {
    const fields = expand(body).split(";").map((field) => field.trim().replace(/\s+/g, " ")).filter(Boolean);
    types.set(structName, `${tuple}(${fields.join(", ")})`);
  }
  const members = [...source.matchAll(/^\s*((?:function|event|error)\s[^;]*);/gm)];
  return members.map(([, member]) => expand(member).replace(/\s+/g, " ").trim());
}
