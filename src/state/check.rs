//! What is checked of requests before a store looks at them, the same for all.

use super::{Cell, Cells, Commit, Lookup, Op, Shape};
use crate::error::{Code, Error, Result};
use arrow_array::Array;

/// Checks a commit against the cells, so that executing it cannot fail half way.
pub fn commit(cells: &Cells, commit: &Commit) -> Result<()> {
    let broken = || Err(Error::new(Code::InvariantBroken, "the columns of a commit do not fit each other"));
    let addresses = commit.addresses.len();
    commit.timers.check(addresses)?;
    for columns in &commit.writes {
        let cell = cells.at(columns.cell)?;
        let rows = columns.at.len();
        let lengths = [columns.ops.len(), columns.values.len(), columns.map_keys.as_ref().map_or(rows, |keys| keys.len())];
        if lengths.iter().any(|&len| len != rows) || columns.at.iter().any(|&at| at as usize >= addresses) {
            return broken();
        }
        let shape = cell.shape();
        for (row, op) in columns.ops.iter().enumerate() {
            let keyed = columns.map_keys.as_ref().is_some_and(|keys| keys.is_valid(row));
            let fits = match op {
                Op::Put => columns.values.is_valid(row) && shape != Shape::List && keyed == (shape == Shape::Map),
                Op::Append => columns.values.is_valid(row) && shape == Shape::List,
                Op::Remove | Op::ClearPrefix => shape == Shape::Map && keyed,
                Op::Clear => !keyed,
                Op::Touch => !keyed || shape == Shape::Map,
            };
            if !fits {
                let message = format!("`{op:?}` does not fit the {} `{}`, or lacks its map key or value", cell.kind.as_str(), cell.name);
                return Err(Error::new(Code::StateType, message));
            }
        }
    }
    Ok(())
}

/// Checks a request for single entries.
pub fn lookup(cell: &Cell, request: &Lookup) -> Result<()> {
    let Lookup { at, addresses, map_keys, .. } = request;
    if cell.shape() != Shape::Map {
        return Err(Error::new(Code::StateType, format!("the cell `{}` is no map, and has no map keys", cell.name)));
    }
    if at.len() != map_keys.len() || map_keys.null_count() > 0 || at.iter().any(|&at| at as usize >= addresses.len()) {
        return Err(Error::new(Code::InvariantBroken, "the columns of a lookup do not fit each other"));
    }
    Ok(())
}

/// Checks that a cell has pages.
pub fn page(cell: &Cell) -> Result<()> {
    if cell.shape() == Shape::Single {
        return Err(Error::new(Code::StateType, format!("the cell `{}` is neither list nor map, and has no pages", cell.name)));
    }
    Ok(())
}
