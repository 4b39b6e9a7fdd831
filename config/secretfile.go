package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The begins of files that editors have saved with a byte order mark. No secret
// begins with one.
const (
	mark8     = "\ufeff"
	mark16LE  = "\xff\xfe"
	mark16BE  = "\xfe\xff"
	saveAgain = "save it as UTF-8 without a byte order mark"
)

// readSecret reads a secret from a file. Only the line end at the end of the file is
// not part of the secret, with its carriage return.
func readSecret(file string) (string, error) {
	text, err := readRegular(file)
	if err != nil {
		return "", err
	}
	secret := string(text)
	switch {
	case strings.HasPrefix(secret, mark8):
		return "", errors.New(file + " begins with a byte order mark, which is never part of a secret; " + saveAgain)
	case strings.HasPrefix(secret, mark16LE), strings.HasPrefix(secret, mark16BE):
		return "", errors.New(file + " is UTF-16; " + saveAgain)
	}
	secret = strings.TrimSuffix(strings.TrimSuffix(secret, "\n"), "\r")
	if secret == "" {
		return "", errors.New(file + " is empty; write the secret into it, or remove the key")
	}
	return secret, nil
}

// oddity returns why a secret from a file may not be the one that was meant, "" if
// nothing is odd. The reason does not quote the secret.
func oddity(secret string) string {
	first, _ := utf8.DecodeRuneInString(secret)
	last, _ := utf8.DecodeLastRuneInString(secret)
	switch {
	case strings.ContainsAny(secret, "\r\n"):
		return "has more than one line"
	case unicode.IsSpace(first):
		return "begins with white space"
	case unicode.IsSpace(last):
		return "ends with white space"
	case !utf8.ValidString(secret):
		return "is not UTF-8 text"
	case strings.ContainsFunc(secret, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "has an invisible character"
	default:
		return ""
	}
}

// secretWarnings returns a warning for each secret that its file seems to give
// wrongly. The secret is used as it is: a blank may be part of a password.
func (c *Config) secretWarnings() []string {
	var warnings []string
	for _, key := range slices.Sorted(maps.Keys(c.source.oddSecrets)) {
		warnings = append(warnings, fmt.Sprintf("the secret in %s %s. It is used unchanged. Correct the file if this is not part of the secret: %s",
			c.source.secretFiles[key], c.source.oddSecrets[key], c.named([]string{key + fileSuffix})))
	}
	return warnings
}
