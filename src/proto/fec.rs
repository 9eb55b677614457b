//! Forward error correction: the systematic Reed-Solomon codes of the video and audio streams.
//!
//! It speaks of blocks of equally long shards ("data" and "parity"), not of packets: headers and
//! which bytes a code covers belong to `video` and `audio`. Any D of the D + Q shards of a block
//! give back the D data shards.
//! Source: nanors rs.c; moonlight-common-c src/RtpVideoQueue.c and src/RtpAudioQueue.c.

mod field;
mod kernel;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(in crate::proto) mod vectors;

pub use kernel::Kernel;

use field::{inverse, multiply};
use kernel::{Strided, combine};
use thiserror::Error;

/// Shards of one block, data and parity together: the code's field has no more elements.
pub const BLOCK_SHARDS_MAX: usize = 255;

/// Too many shards are missing. The block cannot be repaired; its frame is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("more data shards are missing than parity shards arrived")]
pub struct TooFewShards;

/// Where the shards of a block lie in one byte slice: shard s occupies `len` bytes from
/// `s * stride + offset` on; data shards first, then parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Data shards, 1..=255.
    pub data: usize,
    pub stride: usize,
    pub offset: usize,
    pub len: usize,
}

impl Geometry {
    /// The slice of shard `s`.
    fn range(self, s: usize) -> std::ops::Range<usize> {
        let start = s * self.stride + self.offset;
        start..start + self.len
    }
}

/// The parity matrix of a code: a row of coefficients per parity shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    rows: Box<[u8]>,
    /// Length of a row: the most data shards that it serves.
    columns: usize,
}

impl Matrix {
    /// The video code with `parity` (1..=254) parity shards, for any 1..=255 - `parity` data
    /// shards: row j, column i holds the inverse of (parity + i) XOR j.
    pub fn cauchy(parity: usize) -> Self {
        assert!((1..BLOCK_SHARDS_MAX).contains(&parity));
        let columns = BLOCK_SHARDS_MAX - parity;
        let mut rows = Vec::with_capacity(parity * columns);
        for j in 0..parity {
            for i in 0..columns {
                rows.push(inverse(((parity + i) ^ j) as u8));
            }
        }
        Self { rows: rows.into(), columns }
    }

    /// The audio code: 4 data and 2 parity shards.
    pub fn audio() -> Self {
        Self { rows: Box::new([0x77, 0x40, 0x38, 0x0e, 0xc7, 0xa7, 0x0d, 0x6c]), columns: 4 }
    }

    /// Parity shards.
    pub fn parity(&self) -> usize {
        self.rows.len() / self.columns
    }

    fn row(&self, j: usize) -> &[u8] {
        &self.rows[j * self.columns..(j + 1) * self.columns]
    }

    /// Computes the parity shards of `block` from its data shards; allocates nothing.
    ///
    /// Panics if the geometry does not fit the block or the code.
    pub fn encode(&self, kernel: Kernel, block: &mut [u8], geometry: Geometry) {
        let Geometry { data, stride, offset, len } = geometry;
        assert!((1..=self.columns).contains(&data));
        assert!(offset + len <= stride && block.len() >= stride * (data + self.parity()));
        let (input, output) = block.split_at_mut(stride * data);
        combine(
            kernel,
            &self.rows,
            self.columns,
            (&input[offset..], Strided { count: data, stride, len }),
            (&mut output[offset..], Strided { count: self.parity(), stride, len }),
        );
    }

    /// Restores the missing data shards of `block`. `present[s]` tells whether shard s is there.
    ///
    /// Missing parity shards stay as they are. Panics if the geometry does not fit.
    pub fn reconstruct(
        &self,
        kernel: Kernel,
        block: &mut [u8],
        geometry: Geometry,
        present: &[bool],
    ) -> Result<(), TooFewShards> {
        let Geometry { data, stride, offset, len } = geometry;
        assert!((1..=self.columns).contains(&data) && present.len() == data + self.parity());
        assert!(offset + len <= stride && block.len() >= stride * present.len());
        let missing: Vec<usize> = (0..data).filter(|&i| !present[i]).collect();
        let used: Vec<usize> =
            (0..self.parity()).filter(|&j| present[data + j]).take(missing.len()).collect();
        let n = missing.len();
        if n == 0 {
            return Ok(());
        }
        if used.len() < n {
            return Err(TooFewShards);
        }
        // The parity of the data that is there, XOR the parity that came, is what the missing data
        // contribute; the inverse of their coefficients gives them back.
        for &i in &missing {
            block[geometry.range(i)].fill(0);
        }
        let strided = Strided { count: n, stride: len, len };
        let rows: Vec<u8> = used.iter().flat_map(|&j| self.row(j)).copied().collect();
        let mut shares = vec![0; n * len];
        combine(
            kernel,
            &rows,
            self.columns,
            (&block[offset..], Strided { count: data, stride, len }),
            (&mut shares, strided),
        );
        for (share, &j) in shares.chunks_exact_mut(len.max(1)).zip(&used) {
            let parity = &block[geometry.range(data + j)];
            share.iter_mut().zip(parity).for_each(|(share, parity)| *share ^= parity);
        }
        let square: Vec<u8> =
            used.iter().flat_map(|&j| missing.iter().map(move |&i| self.row(j)[i])).collect();
        let solution = inverse_matrix(square, n).ok_or(TooFewShards)?;
        let mut restored = vec![0; n * len];
        combine(kernel, &solution, n, (&shares, strided), (&mut restored, strided));
        for (shard, &i) in restored.chunks_exact(len.max(1)).zip(&missing) {
            block[geometry.range(i)].copy_from_slice(shard);
        }
        Ok(())
    }
}

/// The inverse of an `n` by `n` matrix in row order, by Gauss and Jordan; `None` if it is singular.
fn inverse_matrix(mut a: Vec<u8>, n: usize) -> Option<Vec<u8>> {
    assert!(a.len() == n * n);
    let mut b = vec![0; n * n];
    (0..n).for_each(|i| b[i * n + i] = 1);
    for column in 0..n {
        let pivot = (column..n).find(|&row| a[row * n + column] != 0)?;
        for i in 0..n {
            a.swap(pivot * n + i, column * n + i);
            b.swap(pivot * n + i, column * n + i);
        }
        let scale = inverse(a[column * n + column]);
        for i in 0..n {
            a[column * n + i] = multiply(a[column * n + i], scale);
            b[column * n + i] = multiply(b[column * n + i], scale);
        }
        for row in (0..n).filter(|&row| row != column) {
            let factor = a[row * n + column];
            for i in 0..n {
                a[row * n + i] ^= multiply(factor, a[column * n + i]);
                b[row * n + i] ^= multiply(factor, b[column * n + i]);
            }
        }
    }
    Some(b)
}

/// The video codes met so far, one per number of parity shards: at most 254, made at first use,
/// 2.8 MB if all of them were.
#[derive(Debug)]
pub struct Codes {
    by_parity: Vec<Option<Matrix>>,
}

impl Default for Codes {
    fn default() -> Self {
        Self { by_parity: vec![None; BLOCK_SHARDS_MAX] }
    }
}

impl Codes {
    /// The code with `parity` parity shards, 1..=254.
    pub fn cauchy(&mut self, parity: usize) -> &Matrix {
        self.by_parity[parity].get_or_insert_with(|| Matrix::cauchy(parity))
    }
}
