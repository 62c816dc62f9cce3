use super::*;
use crate::limits::LINK_COST;

fn at(ms: u64) -> Time {
    Time::from_micros(ms * 1000)
}

/// Two ends of a link, of which one is looked at; frames take half of the round trip each way.
struct Ends {
    here: Liveness,
    there: Liveness,
    delay: Duration,
}

impl Ends {
    /// A link that came up at zero, and whose greetings were answered at once.
    fn greeted(delay: Duration) -> Self {
        let mut ends = Self { here: Liveness::new(at(0)), there: Liveness::new(at(0)), delay };
        ends.here.handle_established(at(0));
        ends.there.handle_established(at(0));
        assert_eq!(ends.here.handle_timeout(at(0), at(0)), Action::Probe, "greets at once");
        ends.round_trip(at(0));
        ends
    }

    /// A probe, and its answer; when that came.
    fn round_trip(&mut self, now: Time) -> Time {
        let probe = self.here.greeting(true, now);
        let asked = now + self.delay;
        assert!(greet(&mut self.there, &probe, asked).must_answer);
        let answer = self.there.greeting(false, asked);
        let answered = asked + self.delay;
        assert!(!greet(&mut self.here, &answer, answered).must_answer);
        answered
    }

    /// Runs this end's timers, unanswered, until the link dies; when that was.
    fn dies_at(&mut self) -> Time {
        for _ in 0..100 {
            let due = self.here.deadline();
            if self.here.handle_timeout(due, due) == Action::Dead {
                return due;
            }
        }
        panic!("never dies");
    }
}

fn greet(liveness: &mut Liveness, tlvs: &[Tlv; 2], now: Time) -> Greeted {
    let [Tlv::Hello(hello), Tlv::Ihu(ihu)] = tlvs else { panic!("a hello and an IHU") };
    liveness.handle_frame(now);
    liveness.handle_greeting(hello, Some(ihu), now)
}

#[test]
fn silence_under_traffic_kills_within_half_a_second_and_idle_within_three_and_a_half() {
    let mut ends = Ends::greeted(Duration::ZERO);
    let died = ends.dies_at();
    assert!(died > at(3000) && died <= at(3400), "{died:?}");
    assert!(!ends.here.is_up());

    let mut ends = Ends::greeted(Duration::ZERO);
    assert!(ends.here.handle_sent(at(10)) && !ends.here.handle_sent(at(20)));
    let died = ends.dies_at();
    assert!(died <= at(10 + 480), "{died:?}");

    // The last data was answered, and then nothing more was sent; the end that only received notices as well.
    let mut ends = Ends::greeted(Duration::ZERO);
    ends.here.handle_frame(at(10));
    ends.here.handle_received(at(10));
    let died = ends.dies_at();
    assert!(died <= at(10 + 480), "{died:?}");
}

#[test]
fn a_link_that_is_left_alone_is_probed_ever_more_seldom_until_it_is_used() {
    let mut ends = Ends::greeted(Duration::ZERO);
    let (mut last, mut gaps) = (at(0), Vec::new());
    while last < at(300_000) {
        let due = ends.here.deadline();
        assert_eq!(ends.here.handle_timeout(due, due), Action::Probe);
        ends.round_trip(due);
        gaps.push(due.since(last));
        last = due;
    }
    assert!(gaps.is_sorted() && gaps[0] == PROBE_IDLE && gaps.last() == Some(&PROBE_IDLE_MAX), "{gaps:?}");
    // Used again, it is watched again.
    ends.here.handle_sent(last);
    assert_eq!(ends.here.deadline(), last + PROBE_ACTIVE);
    ends.here.handle_frame(last);
    let mut quiet = last;
    while quiet < last + ACTIVE_KEEP * 2 {
        quiet = ends.here.deadline();
        assert_eq!(ends.here.handle_timeout(quiet, quiet), Action::Probe);
        ends.round_trip(quiet);
    }
    assert!(quiet <= last + ACTIVE_KEEP + PROBE_IDLE * 2, "{quiet:?}");
    ends.here.handle_sent(quiet);
    let died = ends.dies_at();
    assert!(died <= quiet + Duration::from_millis(480), "{died:?}");
}

#[test]
fn nobody_there_is_checked_and_then_acted_on_sooner() {
    let mut ends = Ends::greeted(Duration::ZERO);
    ends.here.handle_sent(at(10));
    ends.here.handle_refused();
    assert_eq!(ends.here.deadline(), at(0), "at once");
    let mut now = at(20);
    while ends.here.handle_timeout(now, now) != Action::Dead {
        now = ends.here.deadline();
    }
    assert!(now <= at(20 + 200), "{now:?}");
    // A forged word costs nothing but a probe.
    let mut ends = Ends::greeted(Duration::ZERO);
    ends.here.handle_refused();
    assert_eq!(ends.here.handle_timeout(at(20), at(20)), Action::Probe);
    ends.round_trip(at(20));
    assert!(ends.here.is_up() && ends.here.deadline() > at(1000));
}

#[test]
fn answers_keep_it_alive_and_measure_the_round_trip() {
    let mut ends = Ends::greeted(Duration::from_millis(20));
    for _ in 0..20 {
        let due = ends.here.deadline();
        assert_eq!(ends.here.handle_timeout(due, due), Action::Probe);
        ends.round_trip(due);
    }
    assert!(ends.here.is_up());
    assert_eq!(ends.here.metric.rtt(), Some(Duration::from_millis(40)));
    assert_eq!(ends.here.metric.cost(), LINK_COST + 45);
    // The other end never asked, and knows as much, although it answers only when it is asked.
    assert_eq!(ends.there.metric.rtt(), Some(Duration::from_millis(40)));
}

#[test]
fn a_late_timer_asks_again_before_it_judges() {
    let mut ends = Ends::greeted(Duration::ZERO);
    for _ in 0..PROBE_TRIES_MAX {
        let due = ends.here.deadline();
        assert_eq!(ends.here.handle_timeout(due, due), Action::Probe);
    }
    let due = ends.here.deadline();
    assert_eq!(ends.here.handle_timeout(due, due + LATE_TIMER), Action::Probe);
    assert!(ends.here.is_up());
}

#[test]
fn a_link_that_works_one_way_only_is_down_at_both_ends_until_it_works_both_ways() {
    let mut ends = Ends::greeted(Duration::ZERO);
    let died = ends.dies_at();
    // Here nothing is heard; there it is: so there it goes down too.
    let deaf = ends.here.greeting(true, died);
    assert!(greet(&mut ends.there, &deaf, died).is_changed && !ends.there.is_up());
    // An echo of a hello from before proves nothing.
    let later = died + Duration::from_millis(1);
    let old = ends.there.greeting(true, later);
    let [Tlv::Hello(hello), Tlv::Ihu(_)] = old else { panic!("a hello and an IHU") };
    let stale = Ihu {
        address: None,
        rxcost: LINK_COST,
        interval_cs: 1,
        echo: Some(Echo { origin_us: 0, receive_us: hello.timestamp_us.unwrap_or_default() }),
    };
    ends.here.handle_frame(later);
    assert!(!ends.here.handle_greeting(&hello, Some(&stale), later).is_changed);
    // Now it works again.
    let now = later + PROBE_DEAD_INTERVAL;
    assert_eq!(ends.here.handle_timeout(now, now), Action::Probe);
    let probe = ends.here.greeting(true, now);
    assert!(greet(&mut ends.there, &probe, now).is_changed && ends.there.is_up(), "its hello was heard and echoed");
    let answer = ends.there.greeting(false, now);
    assert!(greet(&mut ends.here, &answer, now).is_changed && ends.here.is_up());
}

#[test]
fn a_neighbour_that_talks_but_confirms_nothing_is_given_up() {
    let mut ends = Ends::greeted(Duration::ZERO);
    let mut now = at(0);
    let mut is_dead = false;
    while !is_dead && now < at(30_000) {
        now = now + Duration::from_millis(100);
        ends.here.handle_frame(now);
        ends.here.handle_received(now);
        let due = ends.here.deadline();
        is_dead = due <= now && ends.here.handle_timeout(now, now) == Action::Dead;
    }
    assert!(is_dead && now <= at(11_000), "{now:?}");
}
