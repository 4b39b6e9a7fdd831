package access

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// names is the filter of the images that exist in a block. The zero value hides none.
type names struct {
	shown  []string // globs; empty: all names that are not hidden
	hidden []string
}

// CheckNames returns the error of the first glob that is invalid or can match no name
// below the key of a block.
func CheckNames(block string, globs []string) error {
	_, err := newNames(block, globs)
	return err
}

// newNames returns the filter of a list of globs on the name below the block. A glob
// with ! before it hides names, whatever its place in the list.
func newNames(block string, globs []string) (names, error) {
	var n names
	for _, glob := range globs {
		pattern, hides := strings.CutPrefix(glob, "!")
		if err := checkGlob(block, pattern); err != nil {
			return names{}, fmt.Errorf("%q %w", glob, err)
		}
		if hides {
			n.hidden = append(n.hidden, pattern)
		} else {
			n.shown = append(n.shown, pattern)
		}
	}
	return n, nil
}

// checkGlob returns an error for a glob that is invalid, or that can match no name.
func checkGlob(block, glob string) error {
	switch {
	case glob == "":
		return errors.New("is empty; write a glob such as team/**")
	case !doublestar.ValidatePattern(glob):
		return errors.New("is not a valid glob; write one such as team/** or {web,api}-*")
	case glob == block || strings.HasPrefix(glob, block+"/"):
		return fmt.Errorf("begins with the block's own key; write the name below %s alone", block)
	case strings.HasPrefix(glob, "/") || strings.HasSuffix(glob, "/"):
		return errors.New("begins or ends with a slash; names do not")
	// A name has no upper case, no tag and no digest.
	case strings.ContainsAny(glob, ":@") || strings.ToLower(glob) != glob:
		return errors.New("cannot match any name; names have lower-case letters, no tag and no digest")
	}
	return nil
}

// show reports whether a name exists for clients: a glob matches it, or there are only
// globs that hide, and none that hides matches.
func (n names) show(name string) bool {
	if matchesAny(n.hidden, name) {
		return false
	}
	return len(n.shown) == 0 || matchesAny(n.shown, name)
}

func matchesAny(globs []string, name string) bool {
	for _, glob := range globs {
		if doublestar.MatchUnvalidated(glob, name) {
			return true
		}
	}
	return false
}

// all reports whether the filter hides no name.
func (n names) all() bool { return len(n.shown) == 0 && len(n.hidden) == 0 }
