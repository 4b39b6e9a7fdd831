package pages

import (
	"strings"
	"testing"
)

// Text of strangers is cut, and turns no text behind it around.
func TestCut(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "",
		"team/app":                  "team/app",
		"שלום":                      "שלום",
		"a\u202e\u2066b":            `a\u202e\u2066b`,
		"\u202a\u202b\u202c\u202d":  `\u202a\u202b\u202c\u202d`,
		"\u2067\u2068\u2069":        `\u2067\u2068\u2069`,
		strings.Repeat("\u202e", 4): strings.Repeat(`\u202e`, 4),
		strings.Repeat("é", 1500):   strings.Repeat("é", 1000) + " … (2.9 KiB in all)",
		strings.Repeat("x", 1998) + "\u202e\u202e": strings.Repeat("x", 1998) + " … (2.0 KiB in all)",
	} {
		if got := cut(text); got != want {
			t.Errorf("cut(%.40q) = %.80q, want %.80q", text, got, want)
		}
	}
}

// A message begins with a capital letter, unless it begins with a key or the name of a program.
func TestSentence(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "",
		"must not contain a password": "Must not contain a password.",
		"a tag has 128 characters":    "A tag has 128 characters.",
		"busy":                        "Busy.",
		"mirror's password is wrong":  "Mirror's password is wrong.",
		"test: refused":               "Test: refused.",
		"Already a sentence":          "Already a sentence.",
		"registry-mirrors is empty":   "registry-mirrors is empty.",
		"ui.edit_dir is not there":    "ui.edit_dir is not there.",
		"tag_ttl is negative":         "tag_ttl is negative.",
		`repository."a:1" has a port`: `repository."a:1" has a port.`,
		"containerd only tells hosts": "containerd only tells hosts.",
		"crane: not found":            "crane: not found.",
		"k3s restarts":                "k3s restarts.",
		"/etc/weir: not found":        "/etc/weir: not found.",
		"élan":                        "élan.",
		"write this:\nkey = 1":        "Write this:\nkey = 1",
	} {
		if got := sentence(text); got != want {
			t.Errorf("sentence(%q) = %q, want %q", text, got, want)
		}
	}
}
