"""The admission half: a mutating webhook that patches annotated pods with a proxy."""
