package evict

// mailbox holds blobs that were used, for a goroutine that does something about
// their use in the background. Each is in it once, so that the box grows with the
// number of blobs and not with the number of requests. A channel would have to
// drop uses when it is full. The inventory's mutex guards a mailbox.
//
// A slot in a box is a hint: the content may have been forgotten before the
// goroutine looks at it, and another one may have taken its slot. The work is then
// done for that one, which costs a little time and no harm.
type mailbox struct {
	slots []slot
	in    []uint64 // a bit for each slot that is in slots
}

// add puts a slot in, and reports whether the box was empty before.
func (m *mailbox) add(s slot) bool {
	word, bit := int(s/64), uint64(1)<<(s%64)
	for len(m.in) <= word {
		m.in = append(m.in, 0)
	}
	if m.in[word]&bit != 0 {
		return false
	}
	m.in[word] |= bit
	m.slots = append(m.slots, s)
	return len(m.slots) == 1
}

// take empties the box.
func (m *mailbox) take() []slot {
	slots := m.slots
	m.slots = nil
	clear(m.in)
	return slots
}
