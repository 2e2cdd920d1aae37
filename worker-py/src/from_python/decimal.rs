//! `Decimal` objects and integers to Arrow decimals.

use std::sync::Arc;

use arrow_array::types::DecimalType;
use arrow_array::{ArrayRef, ArrowPrimitiveType, PrimitiveArray};
use arrow_buffer::i256;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList};

use super::{Converted, Problem, Target, collect};
use crate::classes;
use crate::error::Outcome;

/// A number that an Arrow decimal is stored as.
pub trait Unscaled: Sized {
    /// Reads decimal digits with an optional minus sign.
    fn read(digits: &str) -> Option<Self>;
}

macro_rules! unscaled {
    ($($number:ty),*) => {
        $(impl Unscaled for $number {
            fn read(digits: &str) -> Option<Self> {
                digits.parse().ok()
            }
        })*
    };
}

unscaled!(i32, i64, i128);

impl Unscaled for i256 {
    fn read(digits: &str) -> Option<Self> {
        Self::from_string(digits)
    }
}

/// Converts a list to decimals of the given precision and scale.
pub fn array<T>(values: &Bound<'_, PyList>, target: &Target<'_>, precision: u8, scale: i8) -> Outcome<ArrayRef>
where
    T: DecimalType + ArrowPrimitiveType,
    T::Native: Unscaled,
{
    let decimal = classes::decimal(values.py())?;
    let convert = |value: &Bound<'_, PyAny>| -> Converted<T::Native> {
        if !value.is_exact_instance_of::<PyInt>() && !value.is_instance(decimal)? {
            return Err(Problem::Unfit);
        }
        let text = value.str()?;
        let digits = rescaled(text.to_str()?, precision, scale).map_err(Problem::Value)?;
        T::Native::read(&digits).ok_or_else(|| Problem::Value(String::from("it is out of range")))
    };
    let (values, nulls) = collect(values, target, convert)?;
    Ok(Arc::new(PrimitiveArray::<T>::try_new(values.into(), nulls)?.with_data_type(target.data_type.clone())))
}

/// The digits of the number times ten to the power of `scale`, if that is whole and has at most `precision` digits.
///
/// `text` is what `str` makes of a `Decimal`: `-12.50`, `1E+3`, `0E-8`, `NaN`.
fn rescaled(text: &str, precision: u8, scale: i8) -> Result<String, String> {
    let (mantissa, exponent) = text.split_once(['E', 'e']).unwrap_or((text, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    let exponent: i64 = exponent.parse().map_err(|_| String::from("its exponent is out of range"))?;
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(format!("`{text}` is no number"));
    }
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Ok(String::from("0"));
    }
    digits = significant.to_owned();
    let shift = exponent.saturating_add(i64::from(scale)).saturating_sub(i64::try_from(fraction.len()).unwrap_or(i64::MAX));
    if shift < 0 {
        let drop = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
        let kept = digits.len().saturating_sub(drop);
        if drop > digits.len() || digits[kept..].bytes().any(|digit| digit != b'0') {
            return Err(format!("it has more than {scale} digits after the point"));
        }
        digits.truncate(kept);
    } else {
        let zeros = usize::try_from(shift).unwrap_or(usize::MAX);
        if zeros > usize::from(precision) {
            return Err(format!("it has more than {precision} digits"));
        }
        digits.extend(std::iter::repeat_n('0', zeros));
    }
    if digits.len() > usize::from(precision) {
        return Err(format!("it has more than {precision} digits"));
    }
    Ok(format!("{sign}{digits}"))
}
