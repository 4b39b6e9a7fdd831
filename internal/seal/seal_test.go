package seal_test

import (
	"testing"

	"github.com/weirhq/weir/internal/seal"
	"github.com/weirhq/weir/internal/testutil"
)

func TestSeal(t *testing.T) {
	mine := seal.New("secret", "one")
	sum := mine.Seal("a", "bc")
	if !mine.Valid(sum, "a", "bc") || !seal.New("secret", "one").Valid(sum, "a", "bc") {
		t.Error("an instance with the same secret refuses the seal")
	}
	for name, accepted := range map[string]bool{
		"other secret":     seal.New("other", "one").Valid(sum, "a", "bc"),
		"other purpose":    seal.New("secret", "two").Valid(sum, "a", "bc"),
		"other fields":     mine.Valid(sum, "a", "bd"),
		"fields that join": mine.Valid(sum, "ab", "c"),
		"one field more":   mine.Valid(sum, "a", "bc", ""),
		"no seal":          mine.Valid("", "a", "bc"),
		"cut":              mine.Valid(sum[:10], "a", "bc"),
		"no base64":        mine.Valid("!"+sum, "a", "bc"),
	} {
		if accepted {
			t.Errorf("%s: accepted", name)
		}
	}
	if none := seal.New("", "one"); none.Seal("a") != "" || !none.Valid("anything", "a") {
		t.Error("without a secret, a seal matters")
	}
}

// A seal is that of one list of fields.
func TestSealsAreDistinct(t *testing.T) {
	s := seal.New("secret", "purpose")
	testutil.Distinct(t, func(a, b string) (string, bool) { return s.Seal(a, b), true })
	testutil.Distinct(t, func(a, b string) (string, bool) {
		if b == "" {
			return s.Seal(a), true
		}
		return s.Seal(a, b), true
	})
}
