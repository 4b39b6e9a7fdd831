package namespace

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// ErrNameUnknown says that no configured block answers a name.
var ErrNameUnknown = errors.New("no configured repository answers this name")

// maxKeys bounds how many keys a message lists.
const maxKeys = 10

// unknown is the error for a name that no block answers: which one may have been
// meant, and which there are.
func (t *Table) unknown(name string) error {
	if len(t.byLength) == 0 {
		return fmt.Errorf("%w: %s; no repository is configured", ErrNameUnknown, name)
	}
	hint := ""
	if meant := t.nearest(name); meant != "" {
		hint = fmt.Sprintf("did you mean %s? ", meant)
	}
	return fmt.Errorf("%w: %s; %snames begin with %s", ErrNameUnknown, name, hint, t.keys())
}

// nearest returns the name with its beginning replaced by the key that is most
// like it, or "" where no key is.
func (t *Table) nearest(name string) string {
	segments := strings.Split(name, "/")
	best, meant := 0, ""
	for _, n := range t.byLength {
		key := n.Key()
		count := strings.Count(key, "/") + 1
		if count > len(segments) {
			continue
		}
		distance := levenshtein.Distance(strings.Join(segments[:count], "/"), key, nil)
		if distance <= len(key)/3 && (meant == "" || distance < best) {
			best, meant = distance, strings.Join(append([]string{key}, segments[count:]...), "/")
		}
	}
	return meant
}

// keys lists the keys in their order, a bounded number of them.
func (t *Table) keys() string {
	keys := make([]string, len(t.byLength))
	for i, n := range t.byLength {
		keys[i] = n.Key()
	}
	slices.Sort(keys)
	if more := len(keys) - maxKeys; more > 0 {
		keys = append(keys[:maxKeys], fmt.Sprintf("or one of %d more", more))
	}
	return strings.Join(keys, ", ")
}
