package route

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"

	"github.com/weirhq/weir/oci"
)

// maxKeys bounds how many keys a message lists: about one line of a terminal.
const maxKeys = 10

// UnknownError says that no entry serves a name.
type UnknownError struct {
	NS      string // the host that the client sent, or ""
	Name    string
	Nearest string   // the name that may have been meant, or ""
	Keys    []string // of the entries that the client may know of, sorted

	nearest string // key of the entry of Nearest
	hides   bool   // Keys are not those of all entries
}

// Telling returns the error for a client that may know only of the entries whose keys sees
// reports.
func (e *UnknownError) Telling(sees func(key string) bool) *UnknownError {
	told := *e
	told.Keys = slices.DeleteFunc(slices.Clone(e.Keys), func(key string) bool { return !sees(key) })
	told.hides = len(told.Keys) < len(e.Keys)
	if !slices.Contains(told.Keys, e.nearest) {
		told.Nearest = ""
	}
	return &told
}

func (e *UnknownError) Error() string {
	text := "no configured repository answers this name: " + e.Name + "; "
	if e.NS != "" {
		text = "no configured repository answers for the registry " + strconv.Quote(cut(e.NS)) + " (ns) in the request for " + e.Name + "; "
	}
	switch {
	case len(e.Keys) == 0 && e.hides:
		return text + "there is none that you may pull from"
	case len(e.Keys) == 0:
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

// cut shortens a host for a message: a client can send any text as ns.
func cut(host string) string {
	const limit = 255 // bytes of the longest host name
	if len(host) <= limit {
		return host
	}
	return host[:limit] + "..."
}

func (t *Table[T]) unknown(ns, name string) error {
	full := strings.TrimPrefix(cut(ns)+"/"+name, "/") // ns may be empty
	e := &UnknownError{NS: ns, Name: name}
	e.Nearest, e.nearest = t.nearestTo(full)
	for _, entry := range t.byLength {
		e.Keys = append(e.Keys, entry.Key)
	}
	slices.Sort(e.Keys)
	return e
}

// nearestTo returns the name with its first segments replaced by the key of the
// entry whose key or host is most like them, and the key, or "" if none is. A key is like a
// text if at most a third of its letters differ, such as gchr.io and ghcr.io.
func (t *Table[T]) nearestTo(name string) (meant, key string) {
	segments := strings.Split(name, "/")
	best := 0
	for _, e := range t.byLength {
		// A key without dots, such as hub, may belong to a host that the client
		// wrote instead: docker.io.
		for _, text := range []string{e.Key, e.Host} {
			count := strings.Count(text, "/") + 1
			// A key with more segments than the name cannot have been meant.
			if text == "" || count > len(segments) {
				continue
			}
			d := distance(oci.CanonicalHost(strings.Join(segments[:count], "/")), oci.CanonicalHost(text))
			if d <= len(text)/3 && (meant == "" || d < best) {
				best, meant, key = d, strings.Join(append([]string{e.Key}, segments[count:]...), "/"), e.Key
			}
		}
	}
	return meant, key
}

// distance returns how many letters differ between two texts. Two neighbours that
// have changed places count as one: gchr.io is nearer to ghcr.io than to gcr.io, or
// as near.
func distance(a, b string) int {
	if len(a) == len(b) {
		for i := range len(a) - 1 {
			if a[i] == b[i+1] && a[i+1] == b[i] && a[:i] == b[:i] && a[i+2:] == b[i+2:] && a != b {
				return 1
			}
		}
	}
	return levenshtein.Distance(a, b, nil)
}
