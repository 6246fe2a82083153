"""Operations in C++, which TensorFlow's own replace where they are not built."""
