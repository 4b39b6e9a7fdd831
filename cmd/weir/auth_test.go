package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/weirhq/weir/access"
)

// The command prints the hash of the first line of its input, and nothing of the password.
func TestAuthHash(t *testing.T) {
	for input, want := range map[string]string{
		"secret\n": "secret", "secret": "secret", "secret\r\n": "secret", " a b \nnext\n": " a b ",
		"": "", "\n": "", "a\tb\n": "", "a\x00b": "", "a\u0085b": "", strings.Repeat("x", 5000): "",
	} {
		var stdout, stderr bytes.Buffer
		root := rootCommand()
		root.SetArgs([]string{"auth", "hash"})
		root.SetIn(strings.NewReader(input))
		root.SetOut(&stdout)
		root.SetErr(&stderr)
		err := root.ExecuteContext(context.Background())
		if want == "" {
			if err == nil || stdout.Len() > 0 {
				t.Errorf("%q: %v, %s", input, err, stdout.String())
			}
			continue
		}
		line := strings.TrimSuffix(stdout.String(), "\n")
		hash, parsed := access.ParseHash(line)
		if err != nil || parsed != nil || !hash.Matches(want) || strings.Contains(line+stderr.String(), "secret") {
			t.Errorf("%q: %s, %v, %v", input, line, err, parsed)
		}
	}
}
