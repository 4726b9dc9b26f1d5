//! Where saved things are put back.
