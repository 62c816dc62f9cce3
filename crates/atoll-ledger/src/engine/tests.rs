//! Whole regions in a simulator: everything that happens follows from one number, the seed.

mod block;
mod region;
mod toy;

use std::time::Duration;

use commonware_runtime::{Runner as _, deterministic};

use region::{Plan, Region};

#[test]
fn one_validator_finalises_alone() {
    deterministic::Runner::seeded(1).start(|context| async move {
        let mut region = Region::new(context, Plan { validators: 1, ..Plan::default() }).await;
        region.run_all();
        region.wait_for_height(5).await;
        let elapsed = region.elapsed();
        assert!(
            elapsed >= Duration::from_secs(4),
            "idle blocks came after {elapsed:?}, sooner than the charter allows"
        );
        assert!(elapsed < Duration::from_secs(7), "5 idle blocks took {elapsed:?}");
        region.check();
    });
}

#[test]
fn a_transaction_does_not_wait_for_the_idle_block() {
    for validators in [1, 4] {
        deterministic::Runner::seeded(2).start(|context| async move {
            let mut region = Region::new(context, Plan { validators, loss: 0.0, ..Plan::default() }).await;
            region.run_all();
            region.wait_for_height(3).await;
            region.toy(0).submit();
            let (before, at) = (region.lowest(), region.elapsed());
            region.wait_for_height(before + 1).await;
            let waited = region.elapsed() - at;
            assert!(waited < Duration::from_millis(500), "{validators} validators: waited {waited:?}");
        });
    }
}

#[test]
fn a_minority_that_is_down_stops_nothing() {
    deterministic::Runner::seeded(3).start(|context| async move {
        let mut region = Region::new(context, Plan { loss: 0.0, ..Plan::default() }).await;
        for i in 0..3 {
            region.run(i);
        }
        region.wait_for(|region| (0..3).all(|i| region.toy(i).height() >= 40)).await;
        let elapsed = region.elapsed();
        assert!(elapsed < Duration::from_secs(75), "40 blocks without one of four validators took {elapsed:?}");
        // The one that was down takes up the whole chain and votes again.
        region.run(3);
        region.wait_for_height(60).await;
        region.check();
    });
}

#[test]
fn gossip_reaches_the_others() {
    deterministic::Runner::seeded(4).start(|context| async move {
        let mut region = Region::new(context, Plan { loss: 0.0, ..Plan::default() }).await;
        region.run_all();
        region.wait_for_height(1).await;
        assert!(region.gossip(2, b"hello"));
        assert!(!region.gossip(2, &vec![0; super::limits::GOSSIP_BYTES_MAX + 1]), "too long to send");
        region.wait_for(|region| [0, 1, 3].iter().all(|i| region.toy(*i).heard() == [b"hello".to_vec()])).await;
        assert!(region.toy(2).heard().is_empty());
        assert_eq!(region.status(2).peers().len(), 3);
    });
}

/// Crashes and restarts at random moments, one message in ten lost.
#[test]
fn crashes_and_loss_make_no_second_chain() {
    for seed in 0..20 {
        deterministic::Runner::seeded(seed).start(|context| async move {
            let mut region = Region::new(context, Plan::default()).await;
            region.run_all();
            for _ in 0..12 {
                let (victim, up, down) = region.draw_crash();
                region.sleep(up).await;
                region.crash(victim);
                region.sleep(down).await;
                region.run(victim);
                region.toy(victim).submit();
            }
            let reached = region.lowest();
            region.wait_for_height(reached + 20).await;
            region.check();
        });
    }
}

/// The power of all machines fails at once; what was not synced to disk is gone.
#[test]
fn a_region_survives_the_loss_of_power() {
    for validators in [1, 4] {
        let plan = Plan { validators, ..Plan::default() };
        let toys = plan.toys();
        let mut checkpoint = None;
        for boot in 0..4u64 {
            let (plan, before) = (Plan { toys: Some(toys.clone()), ..plan.clone() }, toys.clone());
            let life = move |context| async move {
                let mut region = Region::new(context, plan).await;
                region.run_all();
                let reached = region.lowest();
                region.wait_for_height(reached + 10).await;
                region.check();
            };
            let runner = match checkpoint.take() {
                None => deterministic::Runner::seeded(10),
                Some(checkpoint) => deterministic::Runner::from(checkpoint),
            };
            let ((), at) = runner.start_and_recover(life);
            checkpoint = Some(at);
            assert!(before.iter().all(|toy| toy.height() >= 10 * (boot + 1)));
        }
    }
}
