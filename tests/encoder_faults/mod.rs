//! Encoders that fail as drivers do: real elements of the chain, with x264 inside, named after what
//! they do wrong after a few frames.
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use moonshard::media::table::{Row, Setting, Stage, Value, X264};

/// Frames until it fails; the first is the trial's.
const FRAMES: u32 = 15;

const NEVER_STARTS: u32 = 1;
const HANGS: u32 = 2;
const ERRS: u32 = 3;
const ABORTS: u32 = 4;

macro_rules! faulty {
    ($element:literal, $fault:expr) => {
        Row {
            element: $element,
            settings: &[Setting { name: "fault", value: Value::Number($fault as i64) }],
            rate: &[],
            ..X264
        }
    };
}

const CONVERT: Stage = Stage {
    element: "videoconvert",
    settings: &[Setting { name: "n-threads", value: Value::Number(1) }],
};

/// Each is named after its fault; the last one works.
pub const ROWS: &[Row] = &[
    faulty!("never-starts", NEVER_STARTS),
    faulty!("hangs", HANGS),
    faulty!("errs", ERRS),
    faulty!("aborts", ABORTS),
    Row { convert: &[Stage { element: "leaks", settings: &[] }, CONVERT], ..faulty!("works", 0) },
    X264,
];

/// In the encoder process, before its chain is built.
pub fn register() {
    for name in ["never-starts", "hangs", "errs", "aborts", "works"] {
        gst::Element::register(None, name, gst::Rank::NONE, Encoder::static_type()).unwrap();
    }
    gst::Element::register(None, "leaks", gst::Rank::NONE, Keeper::static_type()).unwrap();
}

glib::wrapper! {
    pub struct Encoder(ObjectSubclass<encoder::Encoder>) @extends gst::Bin, gst::Element, gst::Object;
}

glib::wrapper! {
    pub struct Keeper(ObjectSubclass<keeper::Keeper>) @extends gst::Bin, gst::Element, gst::Object;
}

/// Makes `inner` the whole of `bin`.
fn wrap(bin: &gst::Bin, inner: &gst::Element) {
    bin.add(inner).unwrap();
    for name in ["sink", "src"] {
        let pad = inner.static_pad(name).unwrap();
        let pad = gst::GhostPad::builder_with_target(&pad).unwrap().name(name).build();
        bin.add_pad(&pad).unwrap();
    }
}

fn metadata() -> gst::subclass::ElementMetadata {
    gst::subclass::ElementMetadata::new("Fails", "Encoder/Video", "Fails", "moonshard")
}

mod encoder {
    use super::*;

    #[derive(Default)]
    pub struct Encoder {
        seen: AtomicU32,
        fault: AtomicU32,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Encoder {
        const NAME: &'static str = "MoonshardFaultyEncoder";
        type Type = super::Encoder;
        type ParentType = gst::Bin;
    }

    impl ObjectImpl for Encoder {
        fn properties() -> &'static [glib::ParamSpec] {
            static PROPERTIES: std::sync::LazyLock<Vec<glib::ParamSpec>> =
                std::sync::LazyLock::new(|| vec![glib::ParamSpecUInt::builder("fault").build()]);
            &PROPERTIES
        }

        fn set_property(&self, _: usize, value: &glib::Value, _: &glib::ParamSpec) {
            self.fault.store(value.get().unwrap(), Ordering::SeqCst);
        }

        fn constructed(&self) {
            self.parent_constructed();
            let x264 = gst::ElementFactory::make("x264enc")
                .property_from_str("tune", "zerolatency")
                .property_from_str("speed-preset", "ultrafast")
                .property_from_str("key-int-max", "2147483647")
                .property_from_str("aud", "false")
                .build()
                .unwrap();
            let bin = self.obj();
            wrap(bin.upcast_ref(), &x264);
            let weak = bin.downgrade();
            let sink = bin.static_pad("sink").unwrap();
            sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                if let Some(bin) = weak.upgrade() {
                    bin.imp().fail_in_time();
                }
                gst::PadProbeReturn::Ok
            });
        }
    }

    impl Encoder {
        fn fail_in_time(&self) {
            if self.seen.fetch_add(1, Ordering::SeqCst) < FRAMES {
                return;
            }
            match self.fault.load(Ordering::SeqCst) {
                HANGS => std::thread::sleep(Duration::from_secs(3600)),
                ABORTS => std::process::abort(),
                ERRS => {
                    let bin = self.obj();
                    gst::element_error!(bin, gst::StreamError::Encode, ["as it was told to"]);
                }
                _ => {}
            }
        }
    }

    impl GstObjectImpl for Encoder {}

    impl ElementImpl for Encoder {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: std::sync::LazyLock<gst::subclass::ElementMetadata> =
                std::sync::LazyLock::new(super::metadata);
            Some(&METADATA)
        }

        fn change_state(
            &self,
            transition: gst::StateChange,
        ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
            if transition == gst::StateChange::ReadyToPaused
                && self.fault.load(Ordering::SeqCst) == NEVER_STARTS
            {
                std::thread::sleep(Duration::from_secs(3600));
            }
            self.parent_change_state(transition)
        }
    }

    impl BinImpl for Encoder {}
}

mod keeper {
    use super::*;

    #[derive(Default)]
    pub struct Keeper {
        seen: AtomicU32,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Keeper {
        const NAME: &'static str = "MoonshardKeeper";
        type Type = super::Keeper;
        type ParentType = gst::Bin;
    }

    impl ObjectImpl for Keeper {
        fn constructed(&self) {
            self.parent_constructed();
            let identity = gst::ElementFactory::make("identity").build().unwrap();
            let bin = self.obj();
            wrap(bin.upcast_ref(), &identity);
            let weak = bin.downgrade();
            let sink = bin.static_pad("sink").unwrap();
            sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let seen = weak.upgrade().map(|bin| bin.imp().seen.fetch_add(1, Ordering::SeqCst));
                if seen.is_some_and(|seen| seen >= FRAMES)
                    && let Some(gst::PadProbeData::Buffer(buffer)) = &info.data
                {
                    // The buffer itself, not a copy: a reference that nobody gives up.
                    std::mem::forget(buffer.clone());
                }
                gst::PadProbeReturn::Ok
            });
        }
    }

    impl GstObjectImpl for Keeper {}

    impl ElementImpl for Keeper {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: std::sync::LazyLock<gst::subclass::ElementMetadata> =
                std::sync::LazyLock::new(super::metadata);
            Some(&METADATA)
        }
    }

    impl BinImpl for Keeper {}
}
