//! Messages of guests that break the rules.

use std::string::String;

use proptest::prelude::*;

use super::*;

/// A field: mostly of a value that means something.
fn field() -> impl Strategy<Value = Field> {
    let name = prop_oneof![
        8 => prop::sample::select(vec!["a", "dir", "link", "file1", "new", "other"]).prop_map(String::from),
        2 => prop::sample::select(vec!["..", ".", "", "/", "a/b", "a\0"]).prop_map(String::from),
        1 => "[a-z/.]{0,300}",
    ];
    prop_oneof![
        8 => (0..10_u32).prop_map(Number),
        1 => any::<u32>().prop_map(Number),
        2 => (0..300_u64).prop_map(Long),
        1 => any::<u64>().prop_map(Long),
        6 => name.prop_map(|name| text(&name)),
        1 => any::<u8>().prop_map(Byte),
        2 => (0..18_u16).prop_map(Short),
        1 => any::<u16>().prop_map(Short),
    ]
}

/// A message that could be one.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let fid = || (0..10_u32).prop_map(Number);
    let name = || prop::sample::select(vec!["a", "dir", "link", "new", "..", "a/b"]).prop_map(text);
    prop_oneof![
        4 => (fid(), fid(), prop::collection::vec(name(), 0..3)).prop_map(|(fid, new, names)| {
            let mut fields = vec![fid, new, Short(names.len() as u16)];
            fields.extend(names);
            message(110, &fields)
        }),
        2 => (fid(), 0..4_u32).prop_map(|(fid, flags)| message(12, &[fid, Number(flags)])),
        1 => (fid(), name()).prop_map(|(fid, name)| message(14, &[fid, name, Number(2), Number(0), Number(0)])),
        2 => (fid(), 0..300_u64, 0..400_u32).prop_map(|(fid, at, count)| message(116, &[fid, Long(at), Number(count)])),
        2 => (fid(), 0..300_u64, 0..40_u32).prop_map(|(fid, at, count)| {
            message(118, &[fid, Long(at), Number(count), Long(0), Long(0), Long(0)])
        }),
        1 => (fid(), 0..10_u64, 0..400_u32).prop_map(|(fid, at, count)| message(40, &[fid, Long(at), Number(count)])),
        1 => (fid(), name(), fid(), name()).prop_map(|(from, old, to, new)| message(74, &[from, old, to, new])),
        1 => (fid(), name()).prop_map(|(fid, name)| message(72, &[fid, name, Number(0), Number(0)])),
        1 => fid().prop_map(|fid| message(120, &[fid])),
        1 => fid().prop_map(|fid| message(104, &[fid, Number(0), text(""), text(""), Number(0)])),
    ]
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => plausible(),
        3 => (any::<u8>(), prop::collection::vec(field(), 0..8)).prop_map(|(kind, fields)| message(kind, &fields)),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

proptest! {
    /// Whatever is asked: the server answers with a message or not at all, writes nothing but where
    /// the answer goes, keeps no handle without a fid, has no name with a slash, and changes
    /// nothing of what is read-only.
    #[test]
    fn a_hostile_guest_gets_nothing(
        messages in prop::collection::vec((any_message(), 1..300_u32, 0..600_u32, prop::option::of(0..30_usize)), 1..40),
        read_only in any::<bool>(),
    ) {
        let mut guest = Guest::new(read_only);
        for (mut bytes, piece, room, damaged) in messages {
            if let Some(place) = damaged.and_then(|place| bytes.get_mut(place)) {
                *place ^= 0x81;
            }
            guest.tree.stores.clear();
            let answer = guest.answer(&bytes, piece, room);
            if !answer.is_empty() {
                prop_assert!(answer.len() >= 7 && answer.len() == answer[0] as usize + answer[1] as usize * 256);
                prop_assert!(answer[4] == 7 || answer[4] == bytes[4].wrapping_add(1));
                prop_assert_eq!(&answer[5..7], &bytes[5..7]);
            }
            for (address, length) in &guest.tree.stores {
                prop_assert!(*address >= REPLY && address + *length as u64 <= REPLY + u64::from(room));
            }
            prop_assert_eq!(guest.used(), guest.tree.handles);
            prop_assert!(guest.used() <= FIDS);
        }
        prop_assert!(!read_only || guest.tree.changed == 0);
        for node in &guest.tree.nodes {
            if let Node::Directory(entries) = node {
                prop_assert!(entries.keys().all(|name| !name.contains(&b'/') && !name.is_empty() && name != b".."));
            }
        }
    }
}
