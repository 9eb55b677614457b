//! The inner loop of Reed-Solomon: linear combinations of byte strings over GF(2^8).
//!
//! Five ways to do the same: portable, SSSE3, AVX2 (table look-up by nibble), GFNI with 256 and
//! with 512 bits (bit matrix). The processor's best is chosen at run time. Nothing here knows what
//! the bytes mean.
#![expect(unsafe_code, reason = "vector instructions that are chosen at run time")]

use super::field::NIBBLES;

#[cfg(target_arch = "x86_64")]
use super::field::BIT_MATRICES;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A way to multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    Portable,
    Ssse3,
    Avx2,
    Gfni,
    Gfni512,
}

impl Kernel {
    /// All of them, slowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Ssse3, Self::Avx2, Self::Gfni, Self::Gfni512];

    /// The fastest one that this processor has.
    pub fn best() -> Self {
        Self::ALL.into_iter().rfind(|kernel| kernel.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Portable => true,
            Self::Ssse3 => is_x86_feature_detected!("ssse3"),
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("ssse3"),
            Self::Gfni => is_x86_feature_detected!("gfni") && Self::Avx2.is_available(),
            Self::Gfni512 => is_x86_feature_detected!("avx512f") && Self::Gfni.is_available(),
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }
}

/// `count` byte strings of `len` bytes; each starts `stride` bytes after the one before.
#[derive(Clone, Copy)]
pub struct Strided {
    pub count: usize,
    pub stride: usize,
    pub len: usize,
}

impl Strided {
    /// Bytes from the start of the first string to the end of the last.
    fn span(self) -> usize {
        self.count.checked_sub(1).map_or(0, |last| last * self.stride + self.len)
    }
}

/// Writes output string r = XOR over i of matrix\[r * columns + i\] times input string i.
///
/// `matrix` has a row of `columns` coefficients per output string, of which the first
/// `inputs.count` are used. Panics if a slice is too short or the lengths differ.
pub fn combine(
    kernel: Kernel,
    matrix: &[u8],
    columns: usize,
    (input, inputs): (&[u8], Strided),
    (output, outputs): (&mut [u8], Strided),
) {
    assert!(kernel.is_available());
    assert!(inputs.len == outputs.len);
    assert!(outputs.stride >= outputs.len || outputs.count <= 1);
    assert!(inputs.count <= columns && matrix.len() >= columns * outputs.count);
    assert!(input.len() >= inputs.span() && output.len() >= outputs.span());
    let job = Job { matrix, columns, input, inputs, output: output.as_mut_ptr(), outputs };
    // SAFETY: the processor has the instructions (asserted) and the assertions above are what
    // Job promises; `output` is borrowed mutably for the whole call.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        let done = match kernel {
            Kernel::Portable => 0,
            Kernel::Ssse3 => ssse3(&job, 0),
            Kernel::Avx2 => ssse3(&job, avx2(&job)),
            Kernel::Gfni => ssse3(&job, gfni(&job, 0)),
            Kernel::Gfni512 => ssse3(&job, gfni(&job, gfni512(&job))),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let done = 0;
        portable(&job, done);
    }
}

/// Checked arguments: every coefficient, input and output byte that they name exists, and outputs
/// overlap neither each other nor an input.
struct Job<'a> {
    matrix: &'a [u8],
    columns: usize,
    input: &'a [u8],
    inputs: Strided,
    output: *mut u8,
    outputs: Strided,
}

impl Job<'_> {
    /// SAFETY: `row` < outputs.count, `i` < inputs.count.
    unsafe fn coefficient(&self, row: usize, i: usize) -> usize {
        // SAFETY: the matrix has `columns` coefficients for every row.
        usize::from(unsafe { *self.matrix.get_unchecked(row * self.columns + i) })
    }

    /// SAFETY: `i` < inputs.count, `column` <= len.
    unsafe fn input(&self, i: usize, column: usize) -> *const u8 {
        // SAFETY: within the span of the inputs.
        unsafe { self.input.as_ptr().add(i * self.inputs.stride + column) }
    }

    /// SAFETY: `row` < outputs.count, `column` <= len.
    unsafe fn output(&self, row: usize, column: usize) -> *mut u8 {
        // SAFETY: within the span of the outputs.
        unsafe { self.output.add(row * self.outputs.stride + column) }
    }
}

/// Columns from `start` to the end, byte by byte.
unsafe fn portable(job: &Job<'_>, start: usize) {
    for row in 0..job.outputs.count {
        for column in start..job.outputs.len {
            let mut sum = 0;
            for i in 0..job.inputs.count {
                // SAFETY: the three indices are within their bounds.
                let (table, x) =
                    unsafe { (&NIBBLES[job.coefficient(row, i)], *job.input(i, column)) };
                sum ^= table[usize::from(x & 15)] ^ table[16 + usize::from(x >> 4)];
            }
            // SAFETY: as above.
            unsafe { *job.output(row, column) = sum };
        }
    }
}

/// Runs `$tile::<R>(job, row, column)` over all rows, as many at a time as `$heights` has so that the
/// sums stay in registers, for every `$width` columns from `$start` on. Yields the first column left.
///
/// The last columns that are no full `$width` are done together with some before them, whose sums come
/// out the same once more: the narrower way that they would be left to is ten times slower.
#[cfg(target_arch = "x86_64")]
macro_rules! tiles {
    ($job:ident, $start:expr, $width:literal, $tile:ident, [$($heights:literal)+]) => {{
        let Strided { count, len, .. } = $job.outputs;
        let start: usize = $start;
        let most = [$($heights),+].len();
        // Of equal height, as far as it goes: a low tile costs almost as much as a high one.
        let height = count.div_ceil(count.div_ceil(most).max(1)).max(1);
        let mut column = start;
        while column < len && len >= $width {
            let at = column.min(len - $width);
            for row in (0..count).step_by(height) {
                match height.min(count - row) {
                    $($heights => $tile::<$heights>($job, row, at),)+
                    _ => unreachable!("no tile is higher"),
                }
            }
            column = at + $width;
        }
        column
    }};
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "ssse3")]
unsafe fn ssse3(job: &Job<'_>, start: usize) -> usize {
    // SAFETY: the macro keeps rows and columns within the job.
    unsafe { tiles!(job, start, 16, ssse3_tile, [1 2 3 4]) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "ssse3")]
unsafe fn ssse3_tile<const R: usize>(job: &Job<'_>, row: usize, column: usize) {
    let nibble = _mm_set1_epi8(15);
    let mut sums = [_mm_setzero_si128(); R];
    for i in 0..job.inputs.count {
        // SAFETY: 16 columns from `column` on exist; a table has 32 bytes.
        unsafe {
            let x = _mm_loadu_si128(job.input(i, column).cast());
            let low = _mm_and_si128(x, nibble);
            let high = _mm_and_si128(_mm_srli_epi64::<4>(x), nibble);
            for (r, sum) in sums.iter_mut().enumerate() {
                let table = NIBBLES[job.coefficient(row + r, i)].as_ptr();
                let low = _mm_shuffle_epi8(_mm_loadu_si128(table.cast()), low);
                let high = _mm_shuffle_epi8(_mm_loadu_si128(table.add(16).cast()), high);
                *sum = _mm_xor_si128(*sum, _mm_xor_si128(low, high));
            }
        }
    }
    for (r, sum) in sums.into_iter().enumerate() {
        // SAFETY: rows up to `row + R` and 16 columns from `column` on exist.
        unsafe { _mm_storeu_si128(job.output(row + r, column).cast(), sum) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(job: &Job<'_>) -> usize {
    // SAFETY: the macro keeps rows and columns within the job.
    unsafe { tiles!(job, 0, 64, avx2_tile, [1 2 3 4]) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2_tile<const R: usize>(job: &Job<'_>, row: usize, column: usize) {
    let nibble = _mm256_set1_epi8(15);
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    for i in 0..job.inputs.count {
        // SAFETY: 64 columns from `column` on exist; a table has 32 bytes.
        unsafe {
            let input = job.input(i, column);
            let x = [_mm256_loadu_si256(input.cast()), _mm256_loadu_si256(input.add(32).cast())];
            let low = x.map(|x| _mm256_and_si256(x, nibble));
            let high = x.map(|x| _mm256_and_si256(_mm256_srli_epi64::<4>(x), nibble));
            for (r, sum) in sums.iter_mut().enumerate() {
                let table = NIBBLES[job.coefficient(row + r, i)].as_ptr();
                let lows = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast()));
                let highs = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(16).cast()));
                for half in 0..2 {
                    let product = _mm256_xor_si256(
                        _mm256_shuffle_epi8(lows, low[half]),
                        _mm256_shuffle_epi8(highs, high[half]),
                    );
                    sum[half] = _mm256_xor_si256(sum[half], product);
                }
            }
        }
    }
    // SAFETY: rows up to `row + R` and 64 columns from `column` on exist.
    unsafe { store(job, row, column, &sums) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,gfni")]
unsafe fn gfni(job: &Job<'_>, start: usize) -> usize {
    // SAFETY: the macro keeps rows and columns within the job.
    unsafe { tiles!(job, start, 64, gfni_tile, [1 2 3 4]) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,gfni")]
unsafe fn gfni_tile<const R: usize>(job: &Job<'_>, row: usize, column: usize) {
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    for i in 0..job.inputs.count {
        // SAFETY: 64 columns from `column` on exist.
        unsafe {
            let input = job.input(i, column);
            let x = [_mm256_loadu_si256(input.cast()), _mm256_loadu_si256(input.add(32).cast())];
            for (r, sum) in sums.iter_mut().enumerate() {
                let bits = BIT_MATRICES[job.coefficient(row + r, i)].cast_signed();
                let bits = _mm256_set1_epi64x(bits);
                for half in 0..2 {
                    let product = _mm256_gf2p8affine_epi64_epi8::<0>(x[half], bits);
                    sum[half] = _mm256_xor_si256(sum[half], product);
                }
            }
        }
    }
    // SAFETY: rows up to `row + R` and 64 columns from `column` on exist.
    unsafe { store(job, row, column, &sums) };
}

/// SAFETY: `R` rows from `row` on and 64 columns from `column` on exist.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn store<const R: usize>(
    job: &Job<'_>,
    row: usize,
    column: usize,
    sums: &[[__m256i; 2]; R],
) {
    for (r, sum) in sums.iter().enumerate() {
        // SAFETY: promised by the caller.
        unsafe {
            let output = job.output(row + r, column);
            _mm256_storeu_si256(output.cast(), sum[0]);
            _mm256_storeu_si256(output.add(32).cast(), sum[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,gfni")]
unsafe fn gfni512(job: &Job<'_>) -> usize {
    // SAFETY: the macro keeps rows and columns within the job.
    unsafe { tiles!(job, 0, 128, gfni512_tile, [1 2 3 4 5 6 7 8]) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,gfni")]
unsafe fn gfni512_tile<const R: usize>(job: &Job<'_>, row: usize, column: usize) {
    let mut sums = [[_mm512_setzero_si512(); 2]; R];
    for i in 0..job.inputs.count {
        // SAFETY: 128 columns from `column` on exist.
        unsafe {
            let input = job.input(i, column);
            let x = [_mm512_loadu_si512(input.cast()), _mm512_loadu_si512(input.add(64).cast())];
            for (r, sum) in sums.iter_mut().enumerate() {
                let bits = BIT_MATRICES[job.coefficient(row + r, i)].cast_signed();
                let bits = _mm512_set1_epi64(bits);
                for half in 0..2 {
                    let product = _mm512_gf2p8affine_epi64_epi8::<0>(x[half], bits);
                    sum[half] = _mm512_xor_si512(sum[half], product);
                }
            }
        }
    }
    for (r, sum) in sums.into_iter().enumerate() {
        // SAFETY: rows up to `row + R` and 128 columns from `column` on exist.
        unsafe {
            let output = job.output(row + r, column);
            _mm512_storeu_si512(output.cast(), sum[0]);
            _mm512_storeu_si512(output.add(64).cast(), sum[1]);
        }
    }
}
