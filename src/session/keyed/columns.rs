//! Between a bundle's typed columns and the bytes that a store keeps.

use super::executor::Rows;
use crate::{
    error::{Code, Error, Result},
    state::{Addresses, Cell, CellId, Cells, Entries, Op, StateBackend, Writes},
};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StructArray, UInt32Array, cast::AsArray, types};
use arrow_cast::cast;
use arrow_schema::{DataType, TimeUnit};
use arrow_select::take::{take, take_record_batch};
use pillion_wire::{
    bundle::{Layout, Shape, op},
    proto,
};
use std::{collections::HashSet, sync::Arc};
