package harness

import (
	"bytes"
	"strings"
	"sync"
)

// LogBuffer is a log that is written to and read from at once.
type LogBuffer struct {
	Mu  sync.Mutex
	Buf bytes.Buffer
}

func (b *LogBuffer) Write(p []byte) (int, error) {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	return b.Buf.Write(p)
}

func (b *LogBuffer) String() string {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	return b.Buf.String()
}

// Count returns how many lines hold all of the given texts.
func (b *LogBuffer) Count(texts ...string) int {
	n := 0
	for line := range strings.Lines(b.String()) {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(line, text)
		}
		if all {
			n++
		}
	}
	return n
}
