//! Tags: on creation, CreateTags, DeleteTags, DescribeTags.
