package seal_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/weirhq/weir/internal/seal"
)

func TestBox(t *testing.T) {
	mine, text := seal.NewBox("secret", "one"), []byte("a private key")
	sealed := mine.Seal(text, "here")
	if opened, err := seal.NewBox("secret", "one").Open(sealed, "here"); err != nil || !bytes.Equal(opened, text) {
		t.Errorf("an instance with the same secret: %q, %v", opened, err)
	}
	if opened, err := mine.Open(mine.Seal(nil, ""), ""); err != nil || len(opened) != 0 {
		t.Errorf("an empty text: %q, %v", opened, err)
	}
	if bytes.Contains(sealed, text) || bytes.Equal(sealed, mine.Seal(text, "here")) {
		t.Error("the text, or that it is the same one, can be seen")
	}
	open := func(b *seal.Box, sealed []byte, place string) error {
		_, err := b.Open(sealed, place)
		return err
	}
	format := bytes.Clone(sealed)
	format[0]++
	changes := map[string]error{
		"other secret":        open(seal.NewBox("other", "one"), sealed, "here"),
		"other purpose":       open(seal.NewBox("secret", "two"), sealed, "here"),
		"other place":         open(mine, sealed, "there"),
		"place that goes on":  open(mine, sealed, "here/below"),
		"no place":            open(mine, sealed, ""),
		"other format":        open(mine, format, "here"),
		"nothing":             open(mine, nil, "here"),
		"format alone":        open(mine, sealed[:1], "here"),
		"cut nonce":           open(mine, sealed[:8], "here"),
		"cut":                 open(mine, sealed[:len(sealed)-1], "here"),
		"grown":               open(mine, append(bytes.Clone(sealed), 0), "here"),
		"in clear":            open(mine, text, "here"),
		"in clear, formatted": open(mine, append([]byte{1}, text...), "here"),
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if err := open(mine, changed, "here"); !errors.Is(err, seal.ErrClosed) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for name, err := range changes {
		if !errors.Is(err, seal.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if seal.NewBox("", "one") != nil {
		t.Error("a box without a secret")
	}
}
