//! Parity against the golden bytes, and every pattern of loss that can be mended.
use super::vectors::{array, hex, load, number, unhex};
use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn strings(value: &Value) -> Vec<Vec<u8>> {
    array(value).iter().map(unhex).collect()
}

fn available() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|kernel| kernel.is_available())
}

fn matrix_of(case: &Value) -> Matrix {
    match case["matrix"].as_str() {
        Some("audio-fixed") => Matrix::audio(),
        Some("cauchy") => Matrix::cauchy(number(&case["parity_shards"])),
        other => panic!("unknown matrix {other:?}"),
    }
}

#[test]
fn parity_equals_the_vectors_with_every_kernel() {
    for case in array(&load("rs_parity")["cases"]) {
        let (data, parity) = (strings(&case["data"]), strings(&case["parity"]));
        let len = number(&case["shard_len"]);
        let geometry = Geometry { data: data.len(), stride: len, offset: 0, len };
        let matrix = matrix_of(case);
        assert_eq!(matrix.parity(), parity.len());
        for kernel in available() {
            let mut block = data.concat();
            block.resize(len * (data.len() + parity.len()), 0xAA);
            matrix.encode(kernel, &mut block, geometry);
            assert_eq!(hex(&block[len * data.len()..]), hex(&parity.concat()), "{}", case["name"]);
        }
    }
}

#[test]
fn matrices_equal_the_vectors() {
    for case in array(&load("rs_parity")["cases"]) {
        let (matrix, data) = (matrix_of(case), number(&case["data_shards"]));
        let rows: Vec<&[u8]> = (0..matrix.parity()).map(|j| &matrix.row(j)[..data]).collect();
        if case["parity_matrix_rows"].is_array() {
            assert_eq!(rows.concat(), strings(&case["parity_matrix_rows"]).concat());
        } else {
            assert_eq!(rows[0], unhex(&case["parity_matrix_first_row"]));
            assert_eq!(rows[rows.len() - 1], unhex(&case["parity_matrix_last_row"]));
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &rows.concat());
            assert_eq!(digest.as_ref(), unhex(&case["parity_matrix_sha256"]));
        }
    }
}

#[test]
fn every_listed_erasure_set_is_repaired() {
    for case in array(&load("rs_parity")["cases"]) {
        let (data, parity) = (strings(&case["data"]), strings(&case["parity"]));
        let len = number(&case["shard_len"]);
        let geometry = Geometry { data: data.len(), stride: len, offset: 0, len };
        for erased in array(&case["recoverable_erasures"]) {
            let mut block = [data.concat(), parity.concat()].concat();
            let mut present = vec![true; data.len() + parity.len()];
            for shard in array(erased).iter().map(number) {
                present[shard] = false;
                block[geometry.range(shard)].fill(0x55);
            }
            matrix_of(case)
                .reconstruct(Kernel::best(), &mut block, geometry, &present)
                .expect("a recoverable set");
            assert_eq!(hex(&block[..len * data.len()]), hex(&data.concat()), "{erased}");
        }
    }
}

#[test]
fn one_missing_shard_too_many_is_refused() {
    let geometry = Geometry { data: 4, stride: 8, offset: 0, len: 8 };
    let mut block = vec![0; 48];
    let present = [false, false, false, true, true, true];
    let result = Matrix::audio().reconstruct(Kernel::best(), &mut block, geometry, &present);
    assert_eq!(result, Err(TooFewShards));
}

#[test]
fn all_audio_erasures_of_two_are_repaired() {
    let geometry = Geometry { data: 4, stride: 5, offset: 0, len: 5 };
    let mut whole: Vec<u8> = (0..30).map(|i| i * 7 + 1).collect();
    Matrix::audio().encode(Kernel::best(), &mut whole, geometry);
    for (a, b) in (0..6).flat_map(|a| (0..6).map(move |b| (a, b))) {
        let mut present = [true; 6];
        (present[a], present[b]) = (false, false);
        let mut block = whole.clone();
        block[geometry.range(a)].fill(0xEE);
        block[geometry.range(b)].fill(0xEE);
        Matrix::audio()
            .reconstruct(Kernel::best(), &mut block, geometry, &present)
            .expect("any four of six suffice");
        assert_eq!(block[..20], whole[..20], "without {a} and {b}");
    }
}

#[test]
fn multiplication_agrees_with_the_definition() {
    for (a, b) in (0..=255).flat_map(|a| (0..=255).map(move |b| (a, b))) {
        let (mut product, mut shifted) = (0u16, u16::from(a));
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= shifted;
            }
            shifted = if shifted & 0x80 != 0 { shifted << 1 ^ 0x11D } else { shifted << 1 };
        }
        assert_eq!(u16::from(multiply(a, b)), product);
        assert!(a == 0 || multiply(a, inverse(a)) == 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn kernels_agree(
        data in 1usize..40, parity in 1usize..20, len in 0usize..300, offset in 0usize..40, seed: u8,
    ) {
        let geometry = Geometry { data, stride: offset + len + 3, offset, len };
        let block: Vec<u8> = (0..geometry.stride * (data + parity))
            .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 8) as u8)
            .collect();
        let matrix = Matrix::cauchy(parity);
        let mut expected = block.clone();
        matrix.encode(Kernel::Portable, &mut expected, geometry);
        for kernel in available() {
            let mut encoded = block.clone();
            matrix.encode(kernel, &mut encoded, geometry);
            prop_assert_eq!(&encoded, &expected, "{:?}", kernel);
        }
    }

    #[test]
    fn any_erasures_up_to_the_parity_are_repaired(
        data in 1usize..30, parity in 1usize..12, order in any::<u64>(),
    ) {
        let geometry = Geometry { data, stride: 40, offset: 3, len: 33 };
        let mut whole: Vec<u8> = (0..40 * (data + parity)).map(|i| (i * i / 7) as u8).collect();
        let matrix = Matrix::cauchy(parity);
        matrix.encode(Kernel::best(), &mut whole, geometry);
        let mut shards: Vec<usize> = (0..data + parity).collect();
        shards.sort_by_key(|&s| (s as u64 + 1).wrapping_mul(order | 1).rotate_left(29));
        let mut block = whole.clone();
        let mut present = vec![true; data + parity];
        for &shard in &shards[..parity] {
            present[shard] = false;
            block[geometry.range(shard)].fill(0x99);
        }
        matrix.reconstruct(Kernel::best(), &mut block, geometry, &present).expect("repairable");
        for shard in 0..data {
            prop_assert_eq!(&block[geometry.range(shard)], &whole[geometry.range(shard)]);
        }
    }
}
