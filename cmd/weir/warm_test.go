package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/warm"
)

// Where there is no terminal, a line now and then says how far each image is.
func TestWarmLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		s := newProgressUI(&stdout, &stderr)
		one, two := s.begin("one"), s.begin("two")
		one(warm.Progress{Done: warm.Amount{Objects: 1, Bytes: 1 << 20}, Total: warm.Amount{Objects: 2, Bytes: 4 << 20}})
		two(warm.Progress{Done: warm.Amount{Objects: 3, Bytes: 3 << 20}, Total: warm.Amount{Objects: 3, Bytes: 3 << 20}})
		time.Sleep(lineInterval + time.Second)
		s.end("two", "warm two\n")
		time.Sleep(lineInterval)
		s.close()
		want := []string{
			"warming one: 25% (1 object, 1.0 MiB)", "warming two: 100% (3 objects, 3.0 MiB)",
			"warming one: 25% (1 object, 1.0 MiB)", "",
		}
		if got := strings.Split(stderr.String(), "\n"); !slices.Equal(got, want) || stdout.String() != "warm two\n" {
			t.Errorf("%q, %q", got, stdout.String())
		}
	})
}
