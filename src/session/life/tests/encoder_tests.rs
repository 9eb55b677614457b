//! Encoders that fail one after another, and streams that follow the losses of their path.
use super::super::loss::{self, Sent};
use super::*;
use crate::proto::control::FecStatus;

#[test]
fn an_encoder_that_fails_three_times_in_a_row_gives_way_to_the_next() {
    let mut driver = Driver::streaming();
    let tries = |encoder: &str| Event::EncoderTries { encoder: encoder.into() };
    let dies = || Event::EncoderExited { status: "signal 6".into() };
    let passed = |driver: &mut Driver, event| {
        let mut out = Vec::new();
        driver.life.handle(event, driver.now, &mut out);
        out.into_iter().find_map(|effect| match effect {
            Effect::StartEncoder { passed_over, .. } => Some(passed_over),
            _ => None,
        })
    };
    let none: [String; 0] = [];
    let first = ["a".to_owned()];
    for (encoder, expected) in
        [("a", &none[..]), ("a", &none), ("a", &first), ("b", &first), ("b", &first)]
    {
        driver.on(tries(encoder));
        driver.on(Event::EncoderReady);
        driver.pass_ms(100);
        assert_eq!(passed(&mut driver, dies()).as_deref(), Some(expected), "{encoder}");
    }
    driver.on(tries("b"));
    driver.on(Event::EncoderReady);
    // It has worked for a while: what was before counts no more.
    driver.talk(1, RESTART_WINDOW.as_millis() as u64);
    assert_eq!(passed(&mut driver, dies()), Some(vec!["a".into()]));
    for _ in 0..2 {
        driver.on(tries("b"));
        passed(&mut driver, dies());
    }
    assert_eq!(driver.life.figures().encoders_passed_over, 2);
    driver.on(Event::EncoderFailed { reason: "a and b failed too often".into() });
    let told = driver.on(Event::EncoderExited { status: "exit 1".into() });
    assert_eq!(told[0], "terminate 1 800e9403");
    assert_eq!(told.last().unwrap(), "gone 1 no encoder is left: a and b failed too often");
}

#[test]
fn an_encoder_that_does_not_start_gives_way_while_the_client_waits() {
    let mut driver = Driver::started();
    driver.front(ToSession::Grant(grant(1)));
    driver.announce(1);
    driver.on(Event::EncoderTries { encoder: "a".into() });
    let did = driver.pass(ENCODER_RESTART_MAX);
    assert_eq!(did[0], (5_000, "KillEncoder".into()));
    assert_eq!(did[1].1, "start encoder 1");
    driver.on(Event::EncoderTries { encoder: "b".into() });
    assert_eq!(driver.on(Event::EncoderReady), ["ready 1"]);
    let figures = driver.life.figures();
    assert_eq!((figures.encoders_passed_over, figures.encoder_restarts), (1, 0));
}

#[test]
fn what_the_client_reports_lost_tunes_this_encoder_and_the_next() {
    let mut spec = session_spec();
    spec.policy.adapt = true;
    let mut driver = Driver::with(spec);
    driver.on(Event::Started);
    driver.stream(1);
    let report = |viewer| Event::BlockReported {
        viewer: ViewerId(viewer),
        block: FecStatus {
            frame: 9,
            highest_received: 99,
            next_contiguous: 0,
            missing_before_highest: 6,
            data_packets: 20,
            parity_packets: 4,
            received_data: 14,
            received_parity: 4,
            fec_percent: 20,
            block: 0,
            blocks: 1,
        },
    };
    let sent = Sent { packets: 1_000, frames: 50, full: 0 };
    let pulse = Event::EncoderPulse(Pulse { sent, ..Pulse::default() });
    (0..10).for_each(|_| assert!(driver.on(report(1)).is_empty()));
    // Words of others say nothing of this path.
    driver.on(report(7));
    assert!(driver.on(pulse.clone()).is_empty(), "too early");
    driver.talk(1, 1_000);
    // 6 of 20 were missing: 30 percent, and a quarter more; 6 of 100 lost are no congestion.
    let tuned = loss::Tuning { kbps: 8_759, fec_percent: 37 };
    assert_eq!(driver.on(pulse), [format!("Tune({tuned:?})")]);
    let mut out = Vec::new();
    let died = Event::EncoderExited { status: "signal 9".into() };
    driver.life.handle(died, driver.now, &mut out);
    let Some(Effect::StartEncoder { spec, .. }) = out.first() else { panic!("{out:?}") };
    assert_eq!((spec.video.bitrate_kbps, spec.video.fec_percent), (8_759, 37));
    assert_eq!(driver.life.stream(ViewerId(1)), Some(&*stream_spec()), "announced it stays");
}
