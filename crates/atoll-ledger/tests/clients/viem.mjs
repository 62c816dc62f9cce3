// A region's ledger as viem sees it. Usage: node viem.mjs RPC_URL PRIVATE_KEY

import assert from "node:assert/strict";
import {
  BaseError, ContractFunctionRevertedError, createPublicClient, createWalletClient, defineChain, getContractAddress, http,
  keccak256, numberToHex, parseAbi, toHex,
} from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { ADDRESSES, signatures } from "./abi.mjs";
import { LOGGER, args, refused, run } from "./check.mjs";

const { url, key } = args();
const account = privateKeyToAccount(key);
const target = privateKeyToAccount(generatePrivateKey()).address;
const transport = http(url);
const id = await createPublicClient({ transport }).getChainId();
const chain = defineChain({
  id, name: "region", nativeCurrency: { name: "Coin", symbol: "COIN", decimals: 18 }, rpcUrls: { default: { http: [url] } },
});
const client = createPublicClient({ chain, transport, pollingInterval: 50 });
const wallet = createWalletClient({ account, chain, transport });
const contract = (name) => ({ address: ADDRESSES[name], abi: parseAbi(signatures(name, "")) });
const [charter, nodes, deployments] = ["ICharter", "INodes", "IDeployments"].map(contract);

await run("viem", {
  "a transfer arrives, and its receipt says what it cost": async () => {
    const [before, nonce] = await Promise.all([
      client.getBalance({ address: account.address }), client.getTransactionCount({ address: account.address }),
    ]);
    const hash = await wallet.sendTransaction({ to: target, value: 12_345n });
    const receipt = await client.waitForTransactionReceipt({ hash, timeout: 20_000 });
    assert.equal(receipt.status, "success");
    assert.equal(receipt.gasUsed, 21_000n);
    assert.equal(receipt.from.toLowerCase(), account.address.toLowerCase());
    const after = await client.getBalance({ address: account.address });
    // Fees go to the treasury, which in a region of one founder is the founder's own account.
    const treasury = (await client.getBlock()).miner.toLowerCase();
    const fee = treasury === account.address.toLowerCase() ? 0n : receipt.gasUsed * receipt.effectiveGasPrice;
    assert.equal(after, before - 12_345n - fee);
    assert.equal(await client.getBalance({ address: target }), 12_345n);
    assert.equal(await client.getTransactionCount({ address: account.address }), nonce + 1);

    const tx = await client.getTransaction({ hash });
    assert.equal(tx.blockHash, receipt.blockHash);
    assert.equal(tx.type, "eip1559");
    assert.equal(tx.value, 12_345n);
    const block = await client.getBlock({ blockHash: receipt.blockHash, includeTransactions: true });
    assert.equal(block.number, receipt.blockNumber);
    assert.deepEqual(block.transactions[receipt.transactionIndex], { ...tx, ...block.transactions[receipt.transactionIndex] });
    const hashes = (await client.getBlock({ blockNumber: receipt.blockNumber })).transactions;
    assert.ok(hashes.includes(hash));
    assert.ok((await client.getBlock({ blockTag: "finalized" })).number >= receipt.blockNumber);
  },

  "many transactions at once keep their order": async () => {
    const nonce = await client.getTransactionCount({ address: account.address, blockTag: "pending" });
    const sent = await Promise.all(
      [2, 0, 1].map((i) => wallet.sendTransaction({ to: target, value: 1n, nonce: nonce + i, gas: 21_000n })),
    );
    const receipts = await Promise.all(sent.map((hash) => client.waitForTransactionReceipt({ hash, timeout: 20_000 })));
    const place = (receipt) => receipt.blockNumber * 100_000n + BigInt(receipt.transactionIndex);
    assert.ok(place(receipts[1]) < place(receipts[2]) && place(receipts[2]) < place(receipts[0]));
    assert.equal(await client.getBalance({ address: target }), 12_348n);
  },

  "the node registry is read through its ABI": async () => {
    const count = await client.readContract({ ...nodes, functionName: "count" });
    const list = await client.readContract({ ...nodes, functionName: "list", args: [0n, 100n] });
    assert.equal(BigInt(list.length), count < 100n ? count : 100n);
    for (const node of list) {
      assert.ok(node.total.cpuMilli > 0n && node.total.memoryBytes >= node.used.memoryBytes);
      const same = await client.readContract({ ...nodes, functionName: "get", args: [node.id] });
      assert.equal(same.provider, node.provider);
    }
    const registered = await client.getContractEvents({ ...nodes, eventName: "NodeRegistered", fromBlock: 0n });
    const known = new Set(registered.map((log) => log.args.id));
    assert.ok(list.every((node) => known.has(node.id)));
    await client.readContract({ ...deployments, functionName: "list", args: [0n, 10n] });
  },

  "the charter is the one whose hash the genesis names": async () => {
    const region = await client.readContract({ ...charter, functionName: "regionId" });
    assert.equal((await client.getBlock({ blockNumber: 0n })).parentHash, region);
    const [, symbol] = await client.readContract({ ...charter, functionName: "currency" });
    assert.ok(symbol.length > 0);
    assert.ok(await client.readContract({ ...charter, functionName: "supply" }) > 0n);
  },

  "a contract is deployed, called, and its logs are found": async () => {
    const nonce = await client.getTransactionCount({ address: account.address });
    const expected = getContractAddress({ from: account.address, nonce: BigInt(nonce) });
    const created = await client.waitForTransactionReceipt({
      hash: await wallet.deployContract({ abi: [], bytecode: LOGGER.creation }), timeout: 20_000,
    });
    assert.equal(created.contractAddress?.toLowerCase(), expected.toLowerCase());
    assert.equal(await client.getCode({ address: expected }), LOGGER.runtime);
    const filter = await client.createEventFilter({ address: expected });
    const called = await client.waitForTransactionReceipt({
      hash: await wallet.sendTransaction({ to: expected }), timeout: 20_000,
    });
    assert.equal(called.logs.length, 1);
    const [log] = await client.getLogs({ address: expected, fromBlock: created.blockNumber });
    assert.equal(log.transactionHash, called.transactionHash);
    assert.equal(log.data, LOGGER.data);
    assert.deepEqual(log.topics, [LOGGER.topic]);
    assert.equal((await client.getFilterChanges({ filter })).length, 1);
    assert.equal((await client.getFilterChanges({ filter })).length, 0);
  },

  "fees are told before they are paid": async () => {
    const history = await client.getFeeHistory({ blockCount: 4, rewardPercentiles: [25, 75] });
    assert.equal(history.baseFeePerGas.length, history.gasUsedRatio.length + 1);
    assert.equal(history.reward.length, history.gasUsedRatio.length);
    const block = await client.getBlock();
    assert.equal(history.baseFeePerGas.at(-1), block.baseFeePerGas);
    const fees = await client.estimateFeesPerGas();
    assert.ok(fees.maxFeePerGas >= block.baseFeePerGas);
    assert.equal(await client.getGasPrice(), block.baseFeePerGas);
    assert.equal(await client.estimateGas({ account, to: target, value: 1n }), 21_000n);
  },

  "an account is proven under the state root": async () => {
    const slot = toHex(0n, { size: 32 });
    // Blocks go on being made: the root is that of a block between the newest before the question and the newest after.
    const before = await client.getBlockNumber({ cacheTime: 0 });
    const proof = await client.getProof({ address: nodes.address, storageKeys: [slot] });
    const after = await client.getBlockNumber({ cacheTime: 0 });
    const roots = [];
    for (let blockNumber = before; blockNumber <= after; blockNumber++) {
      roots.push((await client.getBlock({ blockNumber })).stateRoot);
    }
    assert.ok(roots.includes(keccak256(proof.accountProof[0])));
    assert.equal(proof.nonce, 1);
    assert.equal(proof.storageProof[0].key, slot);
  },

  "what is refused is refused in words that viem knows": async () => {
    await refused(wallet.sendTransaction({ to: target, nonce: 0, gas: 21_000n }), /nonce/i);
    const poor = createWalletClient({ account: privateKeyToAccount(generatePrivateKey()), chain, transport });
    await refused(poor.sendTransaction({ to: target, value: 1n, gas: 21_000n }), /insufficient|exceeds the balance/i);
    const unknown = client.readContract({ ...nodes, functionName: "get", args: [numberToHex(7, { size: 32 })] });
    const error = await unknown.then(() => assert.fail("should revert"), (error) => error);
    assert.ok(error instanceof BaseError);
    const reverted = error.walk((e) => e instanceof ContractFunctionRevertedError);
    assert.equal(reverted.data?.errorName, "UnknownNode");
  },
});
