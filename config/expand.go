package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/weirhq/weir/internal/whoami"
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${NAME} by the variable of the environment, and $$ by one dollar
// sign. Any other dollar sign stays, so that patterns such as "^latest$" need no
// escaping.
func expand(s string) (string, error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		b.WriteString(before)
		switch {
		case !found:
			return b.String(), nil
		case strings.HasPrefix(after, "$"):
			b.WriteByte('$')
			s = after[1:]
		case strings.HasPrefix(after, "{"):
			name, rest, closed := strings.Cut(after[1:], "}")
			if !closed || !variableName.MatchString(name) {
				return "", errors.New("${ must be followed by the name of an environment variable and }; write $${ for a literal ${")
			}
			value, set := os.LookupEnv(name)
			if !set {
				return "", fmt.Errorf("the environment variable %s is not set", name)
			}
			if !utf8.ValidString(value) {
				return "", fmt.Errorf("the environment variable %s is not UTF-8 text", name)
			}
			b.WriteString(value)
			s = rest
		default:
			b.WriteByte('$')
			s = after
		}
	}
}

// escape returns a string that expand turns into s.
func escape(s string) string {
	var b strings.Builder
	for i, c := range []byte(s) {
		b.WriteByte(c)
		// Only these two pairs mean something to expand; a dollar sign alone stays.
		if c == '$' && i+1 < len(s) && (s[i+1] == '$' || s[i+1] == '{') {
			b.WriteByte('$')
		}
	}
	return b.String()
}

// maxSideFile bounds the files of secrets and certificates, in bytes. A bundle of
// all public certificate authorities has about 200 KiB.
const maxSideFile = 8 << 20

// readRegular reads a file that the configuration names. It returns an error for
// devices and pipes, which could block a reload for ever.
func readRegular(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w", whoami.Explain(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w", whoami.Explain(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSideFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read the file: %w", err)
	case len(text) > maxSideFile:
		return nil, fmt.Errorf("%s is larger than %s", file, Size(maxSideFile))
	}
	return text, nil
}
