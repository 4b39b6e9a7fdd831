package upstream

import (
	"errors"
	"fmt"
)

// ClassOf returns the class of a failure of this package: that of the [*Error]
// in its chain, ClassOK where there is none.
func ClassOf(err error) Class {
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed.Class
	}
	return ClassOK
}

// ParseClass returns the class of a failure by the name that String gives it.
func ParseClass(name string) (Class, error) {
	for _, class := range []Class{ClassNotFound, ClassDenied, ClassUnavailable, ClassRateLimited} {
		if class.String() == name {
			return class, nil
		}
	}
	return ClassOK, fmt.Errorf("upstream: no failure class is called %q", name)
}
