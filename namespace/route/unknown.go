package route

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// maxKeys bounds how many keys a message lists: about one line of a terminal.
const maxKeys = 10

// UnknownError says that no entry serves a name.
type UnknownError struct {
	Name    string
	Nearest string   // the name that may have been meant, or ""
	Keys    []string // of all entries, sorted
}

func (e *UnknownError) Error() string {
	text := "no configured repository answers this name: " + e.Name + "; "
	if len(e.Keys) == 0 {
		return text + "no repository is configured"
	}
	if e.Nearest != "" {
		text += "did you mean " + e.Nearest + "? "
	}
	text += "names begin with "
	if more := len(e.Keys) - maxKeys; more > 0 {
		return text + strings.Join(e.Keys[:maxKeys], ", ") + fmt.Sprintf(", or one of %d more", more)
	}
	return text + strings.Join(e.Keys, ", ")
}

func (t *Table[T]) unknown(name string) error {
	e := &UnknownError{Name: name, Nearest: t.nearest(name)}
	for _, entry := range t.byLength {
		e.Keys = append(e.Keys, entry.Key)
	}
	slices.Sort(e.Keys)
	return e
}

// nearest returns the name with its first segments replaced by the key that is
// most like them, or "" if no key is. A key is like a text if at most a third of
// its letters differ, such as gchr.io and ghcr.io.
func (t *Table[T]) nearest(name string) string {
	segments := strings.Split(name, "/")
	best, meant := 0, ""
	for _, e := range t.byLength {
		count := strings.Count(e.Key, "/") + 1
		// A key with more segments than the name cannot have been meant.
		if count > len(segments) {
			continue
		}
		distance := levenshtein.Distance(strings.Join(segments[:count], "/"), e.Key, nil)
		if distance <= len(e.Key)/3 && (meant == "" || distance < best) {
			best, meant = distance, strings.Join(append([]string{e.Key}, segments[count:]...), "/")
		}
	}
	return meant
}
