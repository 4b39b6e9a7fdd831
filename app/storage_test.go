package app

import "testing"

// Damaged content lies beside max_size, and takes a small part of it at most.
func TestQuarantineLimit(t *testing.T) {
	for maxSize, want := range map[int64]int64{0: 1 << 30, 64 << 20: 64 << 20 / 20, 20 << 30: 1 << 30, 1 << 40: 1 << 30, 10: 0} {
		if got := quarantineLimit(maxSize); got != max(want, 1) {
			t.Errorf("with a max_size of %d the quarantine has %d bytes, want %d", maxSize, got, max(want, 1))
		}
	}
}
