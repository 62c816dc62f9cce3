// A region's ledger as ethers sees it. Usage: node ethers.mjs RPC_URL PRIVATE_KEY

import assert from "node:assert/strict";
import { Contract, ContractFactory, JsonRpcProvider, Wallet, getCreateAddress, keccak256, toBeHex } from "ethers";
import { ADDRESSES, signatures } from "./abi.mjs";
import { LOGGER, args, refused, run } from "./check.mjs";

const { url, key } = args();
const provider = new JsonRpcProvider(url, undefined, { pollingInterval: 50, cacheTimeout: -1 });
const wallet = new Wallet(key, provider);
const target = Wallet.createRandom().address;
const contract = (name) => new Contract(ADDRESSES[name], signatures(name), wallet);
const [charter, nodes, deployments] = ["ICharter", "INodes", "IDeployments"].map(contract);

await run("ethers", {
  "a transfer arrives, and its receipt says what it cost": async () => {
    const before = await provider.getBalance(wallet.address);
    const nonce = await provider.getTransactionCount(wallet.address);
    const sent = await wallet.sendTransaction({ to: target, value: 777n });
    const receipt = await sent.wait(1, 20_000);
    assert.equal(receipt.status, 1);
    assert.equal(receipt.gasUsed, 21_000n);
    // Fees go to the treasury, which in a region of one founder is the founder's own account.
    const treasury = (await provider.getBlock("latest")).miner;
    const fee = treasury === wallet.address ? 0n : receipt.gasUsed * receipt.gasPrice;
    assert.equal(await provider.getBalance(wallet.address), before - 777n - fee);
    assert.equal(await provider.getBalance(target), 777n);
    assert.equal(await provider.getTransactionCount(wallet.address), nonce + 1);
    const block = await provider.getBlock(receipt.blockNumber, true);
    assert.equal(block.hash, receipt.blockHash);
    assert.equal(block.getPrefetchedTransaction(sent.hash).value, 777n);
    assert.equal((await provider.getTransaction(sent.hash)).blockNumber, receipt.blockNumber);
  },

  "the node registry is read through its ABI": async () => {
    const count = await nodes.count();
    const list = await nodes.getFunction("list")(0n, 100n);
    assert.equal(BigInt(list.length), count < 100n ? count : 100n);
    for (const node of list) {
      assert.ok(node.total.cpuMilli > 0n);
      assert.equal((await nodes.getFunction("get")(node.id)).account, node.account);
    }
    const registered = await nodes.queryFilter("NodeRegistered", 0);
    const known = new Set(registered.map((log) => log.args.id));
    assert.ok(list.every((node) => known.has(node.id)));
    assert.ok(await deployments.count() >= 0n);
  },

  "the charter is the one whose hash the genesis names": async () => {
    assert.equal((await provider.getBlock(0)).parentHash, await charter.regionId());
    assert.ok(await charter.supply() > 0n);
  },

  "a contract is deployed, called, and its logs are heard": async () => {
    const nonce = await provider.getTransactionCount(wallet.address);
    const logger = await new ContractFactory([], LOGGER.creation, wallet).deploy();
    await logger.waitForDeployment();
    const address = await logger.getAddress();
    assert.equal(address, getCreateAddress({ from: wallet.address, nonce }));
    assert.equal(await provider.getCode(address), LOGGER.runtime);
    const heard = new Promise((resolve) => provider.once({ address, topics: [LOGGER.topic] }, resolve));
    const first = await (await wallet.sendTransaction({ to: address })).wait(1, 20_000);
    assert.equal(first.logs.length, 1);
    // A listener starts some time after it was asked to: call until it hears.
    let log;
    while (log === undefined) {
      await (await wallet.sendTransaction({ to: address })).wait(1, 20_000);
      log = await Promise.race([heard, new Promise((resolve) => setTimeout(resolve, 300))]);
    }
    assert.equal(log.data, LOGGER.data);
    const [found] = await provider.getLogs({ address, fromBlock: first.blockNumber });
    assert.equal(found.transactionHash, first.hash);
  },

  "fees are told before they are paid": async () => {
    const fees = await provider.getFeeData();
    const { baseFeePerGas } = await provider.getBlock("latest");
    assert.equal(fees.gasPrice, baseFeePerGas);
    assert.ok(fees.maxFeePerGas >= baseFeePerGas);
    assert.equal(await provider.estimateGas({ from: wallet.address, to: target, value: 1n }), 21_000n);
    const history = await provider.send("eth_feeHistory", ["0x2", "latest", []]);
    assert.equal(history.baseFeePerGas.length, history.gasUsedRatio.length + 1);
  },

  "an account is proven under the state root": async () => {
    // Blocks go on being made: the root is that of a block between the newest before the question and the newest after.
    const newest = async () => Number(await provider.send("eth_blockNumber", []));
    const before = await newest();
    const { accountProof, nonce } = await provider.send("eth_getProof", [ADDRESSES.INodes, [toBeHex(0, 32)], "latest"]);
    const after = await newest();
    const roots = [];
    for (let number = before; number <= after; number++) roots.push((await provider.getBlock(number)).stateRoot);
    assert.ok(roots.includes(keccak256(accountProof[0])));
    assert.equal(nonce, "0x1");
  },

  "what is refused is refused in words that ethers knows": async () => {
    await refused(wallet.sendTransaction({ to: target, nonce: 0, gasLimit: 21_000n }), /NONCE_EXPIRED/);
    const poor = new Wallet(Wallet.createRandom().privateKey, provider);
    await refused(poor.sendTransaction({ to: target, value: 1n, gasLimit: 21_000n }), /INSUFFICIENT_FUNDS/);
    const error = await refused(nodes.getFunction("get")(toBeHex(7, 32)), /CALL_EXCEPTION/);
    assert.equal(error.revert?.name, "UnknownNode");
  },
});
