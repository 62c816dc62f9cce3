//! The EVM of this ledger: revm with the system contracts as native code, and fees that go to the treasury whole.

use std::marker::PhantomData;

use alloy_primitives::{Address, B256, Log, U256};
use revm::{
    context::{
        BlockEnv, CfgEnv, Context, ContextSetters as _, Evm, Journal, LocalContext, TxEnv,
        result::{EVMError, ExecutionResult, HaltReason},
    },
    context_interface::{
        Block as _, Cfg, ContextTr, JournalTr, Transaction as _, block::BlobExcessGasAndPrice,
        journaled_state::account::JournaledAccountTr as _,
    },
    database_interface::Database,
    handler::{
        EthFrame, EthPrecompiles, EvmTr, EvmTrError, FrameResult, Handler, PrecompileProvider,
        instructions::EthInstructions,
    },
    interpreter::{
        CallInputs, CallScheme, Gas, InitialAndFloorGas, InstructionResult, InterpreterResult,
        interpreter::EthInterpreter,
    },
    primitives::{AddressSet, hardfork::SpecId},
    state::EvmState,
};

use super::{
    Env,
    overlay::{Overlay, StateError},
};
use crate::{
    limits,
    state::{StateDiff, StateRead},
    system::{self, Access, Call, Host, Stop},
};

/// The rules of Ethereum that apply: those of its Osaka upgrade, without blobs, and with one transaction allowed to use
/// the whole block.
const RULES: SpecId = SpecId::OSAKA;

type Ctx<'a, S> = Context<BlockEnv, TxEnv, CfgEnv, Overlay<'a, S>, Journal<Overlay<'a, S>>, (), LocalContext>;
type Inner<'a, S> = Evm<Ctx<'a, S>, (), EthInstructions<EthInterpreter, Ctx<'a, S>>, Contracts<'a>, EthFrame>;

/// Why the machine has no result.
pub(crate) type MachineError<E> = EVMError<StateError<E>>;

/// Who pays for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fee {
    /// The sender, at the region's price.
    Sender,
    /// Nobody: a free call of a node. Nonce and signature count all the same.
    Free,
    /// Nobody, and neither nonce nor code of the sender matter: it is not a transaction but a question.
    Question,
}

/// An EVM on top of a parent state.
pub(crate) struct Machine<'a, S: StateRead> {
    evm: Inner<'a, S>,
    env: &'a Env<'a>,
}

impl<'a, S: StateRead> Machine<'a, S> {
    pub(crate) fn new(env: &'a Env<'a>, parent: &'a S) -> Self {
        let mut context = Context::<BlockEnv, TxEnv, CfgEnv, _, _, (), _>::new(Overlay::new(parent), RULES);
        context.block = block_env(env);
        context.cfg.chain_id = env.charter.chain_id;
        context.cfg.tx_gas_limit_cap = Some(limits::BLOCK_GAS);
        let instructions = EthInstructions::new_mainnet_with_spec(RULES);
        Self { evm: Evm::new(context, instructions, Contracts::new(env)), env }
    }

    /// Runs a transaction. Its changes wait in the journal for [`Self::commit`] or [`Self::discard`].
    pub(crate) fn run(&mut self, tx: TxEnv, fee: Fee) -> Result<ExecutionResult, MachineError<S::Error>> {
        self.evm.ctx.block.basefee = if fee == Fee::Sender { self.env.charter.prices.gas } else { 0 };
        self.evm.ctx.set_tx(tx);
        let mut rules = Rules { question: fee == Fee::Question, _evm: PhantomData };
        rules.run(&mut self.evm)
    }

    /// Takes over the changes since the last commit.
    pub(crate) fn commit(&mut self) {
        let changes = self.evm.ctx.journaled_state.finalize();
        self.evm.ctx.journaled_state.db_mut().commit(changes);
    }

    /// Forgets the changes since the last commit.
    pub(crate) fn discard(&mut self) {
        let _ = self.evm.ctx.journaled_state.finalize();
    }

    /// Runs native code of the ledger itself, outside of any transaction, and takes over its changes. Returns its logs.
    pub(crate) fn native<T>(
        &mut self,
        code: impl FnOnce(&mut Access<'_>) -> Result<T, Stop>,
    ) -> Result<(T, Vec<Log>), Stop> {
        let journal = &mut self.evm.ctx.journaled_state;
        let mut host = JournalHost(journal);
        let value = code(&mut Access::unmetered(&mut host, self.env));
        let logs = self.evm.ctx.journaled_state.take_logs();
        if value.is_ok() {
            self.commit()
        } else {
            self.discard()
        }
        Ok((value?, logs))
    }

    pub(crate) fn state(&mut self) -> &mut Overlay<'a, S> {
        self.evm.ctx.journaled_state.db_mut()
    }

    pub(crate) fn into_diff(self) -> StateDiff {
        self.evm.ctx.journaled_state.database.into_diff()
    }
}

fn block_env(env: &Env<'_>) -> BlockEnv {
    BlockEnv {
        number: U256::from(env.number),
        beneficiary: env.charter.treasury,
        timestamp: U256::from(env.timestamp_ms / 1000),
        gas_limit: limits::BLOCK_GAS,
        basefee: env.charter.prices.gas,
        difficulty: U256::ZERO,
        // Not random: the proposer of the parent chose it. It differs from block to block, which is all that it promises.
        prevrandao: Some(env.parent_hash),
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice { excess_blob_gas: 0, blob_gasprice: 1 }),
        slot_num: 0,
    }
}

/// Ethereum's rules of a transaction, but for who gets the fee.
struct Rules<EVM, ERROR> {
    question: bool,
    _evm: PhantomData<(EVM, ERROR)>,
}

impl<EVM, ERROR> Handler for Rules<EVM, ERROR>
where
    EVM: EvmTr<Context: ContextTr<Journal: JournalTr<State = EvmState>>, Frame = EthFrame>,
    ERROR: EvmTrError<EVM>,
{
    type Evm = EVM;
    type Error = ERROR;
    type HaltReason = HaltReason;

    fn validate_against_state_and_deduct_caller(
        &self,
        evm: &mut EVM,
        _gas: &mut InitialAndFloorGas,
    ) -> Result<(), ERROR> {
        if !self.question {
            return revm::handler::pre_execution::validate_against_state_and_deduct_caller(evm.ctx());
        }
        let (tx, journal) = evm.ctx().tx_journal_mut();
        let mut caller = journal.load_account_with_code_mut(tx.caller())?.data;
        if tx.kind().is_call() {
            caller.bump_nonce();
        }
        Ok(())
    }

    /// Nothing is burned: the base fee goes where the tip goes.
    fn reward_beneficiary(&self, evm: &mut EVM, result: &mut FrameResult) -> Result<(), ERROR> {
        let context = evm.ctx();
        let base_fee = u128::from(context.block().basefee());
        let price = U256::from(context.tx().effective_gas_price(base_fee));
        let treasury = context.block().beneficiary();
        let fee = price * U256::from(result.gas().used());
        context.journal_mut().load_account_mut(treasury)?.incr_balance(fee);
        Ok(())
    }
}

/// Ethereum's precompiled contracts and this ledger's system contracts.
struct Contracts<'a> {
    env: &'a Env<'a>,
    ethereum: EthPrecompiles,
    warm: AddressSet,
}

impl<'a> Contracts<'a> {
    fn new(env: &'a Env<'a>) -> Self {
        let ethereum = EthPrecompiles::new(RULES);
        let mut warm = ethereum.warm_addresses().clone();
        warm.extend(system::ADDRESSES);
        Self { env, ethereum, warm }
    }
}

impl<CTX> PrecompileProvider<CTX> for Contracts<'_>
where
    CTX: ContextTr<Cfg: Cfg<Spec = SpecId>, Journal: JournalTr>,
{
    type Output = InterpreterResult;

    fn set_spec(&mut self, _spec: SpecId) -> bool {
        false
    }

    fn run(&mut self, context: &mut CTX, inputs: &CallInputs) -> Result<Option<InterpreterResult>, String> {
        if !system::ADDRESSES.contains(&inputs.bytecode_address) {
            return PrecompileProvider::<CTX>::run(&mut self.ethereum, context, inputs);
        }
        let input = inputs.input.bytes(context);
        let call = Call {
            contract: inputs.bytecode_address,
            caller: inputs.caller,
            value: inputs.value.get(),
            input: &input,
            borrowed: !matches!(inputs.scheme, CallScheme::Call | CallScheme::StaticCall)
                || inputs.target_address != inputs.bytecode_address,
        };
        let mut host = JournalHost(context.journal_mut());
        let mut access = Access::metered(&mut host, self.env, inputs.gas_limit, inputs.is_static);
        let outcome = system::call(&mut access, &call);
        let left = access.gas_left();
        let (result, output) = match outcome {
            Ok(output) => (InstructionResult::Return, output),
            Err(Stop::Revert(data)) => (InstructionResult::Revert, data),
            Err(Stop::OutOfGas) => (InstructionResult::PrecompileOOG, Default::default()),
            Err(Stop::Static) => (InstructionResult::StateChangeDuringStaticCall, Default::default()),
            Err(Stop::Broken(why)) => return Err(why),
        };
        let mut gas = Gas::new_with_regular_gas_and_reservoir(inputs.gas_limit, inputs.reservoir);
        let spent = if result.is_ok_or_revert() { inputs.gas_limit - left } else { inputs.gas_limit };
        let within = gas.record_regular_cost(spent);
        debug_assert!(within, "the meter never hands out more than it was given");
        Ok(Some(InterpreterResult::new(result, output, gas)))
    }

    fn warm_addresses(&self) -> &AddressSet {
        &self.warm
    }
}

/// The journal as the system contracts see it: what they do is undone when the call that they serve reverts.
struct JournalHost<'j, J>(&'j mut J);

impl<J: JournalTr> Host for JournalHost<'_, J>
where
    <J::Database as Database>::Error: std::error::Error,
{
    fn load(&mut self, contract: Address, slot: B256) -> Result<U256, String> {
        // The journal reads storage only of accounts that it has loaded.
        self.0.load_account(contract).map_err(chain)?;
        self.0.sload(contract, slot.into()).map(|word| word.data).map_err(chain)
    }

    fn store(&mut self, contract: Address, slot: B256, word: U256) -> Result<(), String> {
        self.0.load_account(contract).map_err(chain)?;
        self.0.sstore(contract, slot.into(), word).map_err(chain)?;
        self.0.touch_account(contract);
        Ok(())
    }

    fn transfer(&mut self, source: Address, target: Address, amount: U256) -> Result<bool, String> {
        Ok(self.0.transfer(source, target, amount).map_err(chain)?.is_none())
    }

    fn log(&mut self, log: Log) {
        self.0.log(log);
    }
}

/// An error and its causes in one line: revm carries errors of precompiles as text.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
